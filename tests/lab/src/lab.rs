//! The lab as a whole: what is switched on, in which order, and how all of it is found and ended again.
//!
//! `up` leaves processes behind (a switch, a shelf, a QEMU for each machine) and a file that names them; `ssh`, `run` and
//! `down` find them by it. There is one lab for a workspace.
//!
//! Invariant: what the file names is ours. A process is written down before anything waits for it, so `down` ends
//! everything, whatever went wrong in between.

use crate::cache::{Cache, Key};
use crate::disk::Tree;
use crate::error::{Error, Result};
use crate::image::Image;
use crate::machine::Machine;
use crate::places::Places;
use crate::process::Process;
use crate::programs::{self, SSH_KEYGEN};
use crate::shelf::Shelf;
use crate::ssh::Ssh;
use crate::tools::Qemu;
use crate::topology::{self, Node, OWN_DISK, Segment};
use crate::{payload, saved, wait};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Name of the file that says what runs.
const STATE: &str = "lab.json";
/// Name of the lab's key, and of its public half with an ending.
const KEY: &str = "key";
/// Name in the cache of a lab that was put away.
const SAVED: &str = "saved";

/// How long a QEMU may take until it can be asked.
const START: Duration = Duration::from_secs(60);

/// What runs.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct State {
    switch: Option<Process>,
    shelf: Option<Shelf>,
    machines: BTreeMap<String, Started>,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Started {
    process: Process,
    ssh_port: u16,
}

/// A machine that was put away as it was.
#[derive(Clone, Debug)]
pub struct Kept {
    node: Node,
    folder: PathBuf,
    // Found before anybody counts the time.
    qemu: Qemu,
    image: Image,
}

/// The lab of this workspace.
#[derive(Debug)]
pub struct Lab {
    /// Its folders.
    pub places: Places,
    state: State,
}

impl Lab {
    /// The lab as it is: running, or not.
    ///
    /// # Errors
    /// The file that says what runs cannot be read.
    pub fn find() -> Result<Self> {
        let places = Places::find()?;
        let file = places.run.join(STATE);
        let state = match fs::read_to_string(&file) {
            Ok(text) => serde_json::from_str(&text).map_err(Error::file("read", &file))?,
            Err(_) => State::default(),
        };
        Ok(Self { places, state })
    }

    /// Something of it runs.
    #[must_use]
    pub fn is_up(&self) -> bool {
        let mut processes = self.state.machines.values().map(|started| started.process);
        processes.any(|process| process.is_alive())
    }

    fn save(&self) -> Result<()> {
        fs::create_dir_all(&self.places.run).map_err(Error::file("make", &self.places.run))?;
        let file = self.places.run.join(STATE);
        let text = serde_json::to_string_pretty(&self.state).map_err(Error::file("write", &file))?;
        fs::write(&file, text).map_err(Error::file("write", &file))
    }

    /// Fetches and makes what takes long.
    ///
    /// # Errors
    /// Something is missing.
    pub fn make(&self) -> Result<()> {
        programs::all_here()?;
        self.parts().map(drop)
    }

    fn parts(&self) -> Result<(Qemu, Image)> {
        let cache = Cache::new(self.places.cache.clone());
        let this = std::env::current_exe().map_err(|error| Error::step("find the running program", error))?;
        Ok((Qemu::find(&cache)?, Image::get(&cache, &this)?))
    }

    /// Switches everything on, with disks and machines as new, and waits until all of `nodes` are up. Says what took how
    /// long. Where all of them are wanted they come out of the cache, or go into it the first time.
    ///
    /// # Errors
    /// Something is missing, or does not come up; what was started stays, to be looked at, until [`Lab::down`].
    pub fn up(&mut self, nodes: &[Node]) -> Result<()> {
        if self.is_up() {
            return Err(Error::step(
                "switch the lab on",
                "it is on already: cargo lab down",
            ));
        }
        programs::all_here()?;
        let start = Instant::now();
        let (qemu, image) = self.parts()?;
        let cache = Cache::new(self.places.cache.clone());
        let keys = cache.get("ssh", &Key::of(&["ed25519"]), make_key)?;
        println!("tools and image: {:.0} s", start.elapsed().as_secs_f64());

        // What an earlier lab may have left: its file says what.
        self.down()?;
        let run = self.places.run.clone();
        if run.exists() {
            fs::remove_dir_all(&run).map_err(Error::file("remove", &run))?;
        }
        fs::create_dir_all(&run).map_err(Error::file("make", &run))?;
        saved::copy(&keys.join(KEY), &run.join(KEY))?;
        let mut trees = vec![];
        let mut parts = vec![image.identity(), qemu.version.clone(), Shelf::shape()];
        for node in nodes {
            let folder = run.join(node.as_str());
            fs::create_dir_all(&folder).map_err(Error::file("make", &folder))?;
            let tree = Tree::new(folder.join("tree"))?;
            payload::fill(&tree, *node, &keys.join(KEY).with_extension("pub"))?;
            parts.push(tree.listing()?);
            parts.extend(topology::shape(*node));
            trees.push((tree, folder.join(OWN_DISK)));
        }
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let key = Key::of(&parts);
        if nodes == Node::ALL && cache.has(SAVED, &key) {
            let saved = cache.get(SAVED, &key, |_| {
                Err(Error::step("find the lab that was put away", "it is gone"))
            })?;
            self.wake(&saved, &qemu, &image)?;
            println!("as it was put away: {:.0} s", start.elapsed().as_secs_f64());
            return Ok(());
        }
        for (tree, disk) in trees {
            tree.into_disk(&disk)?;
        }
        self.start_around()?;
        for node in nodes {
            self.power_on_with(*node, &qemu, &image, None)?;
        }
        println!(
            "disks, switch, shelf, power: {:.0} s",
            start.elapsed().as_secs_f64()
        );
        for node in nodes {
            self.machine(*node)?.wait_up()?;
            println!("{node} is up: {:.0} s", start.elapsed().as_secs_f64());
        }
        if nodes == Node::ALL {
            cache.get(SAVED, &key, |folder| self.put_away(folder))?;
            println!("put away: {:.0} s", start.elapsed().as_secs_f64());
        }
        Ok(())
    }

    /// Starts what machines are connected to.
    fn start_around(&mut self) -> Result<()> {
        let folder = self.places.run.join("switch");
        fs::create_dir_all(&folder).map_err(Error::file("make", &folder))?;
        let this = std::env::current_exe().map_err(|error| Error::step("find the running program", error))?;
        let mut command = Command::new(this);
        command.arg("switch").arg(&folder);
        let log = self.places.run.join("switch.log");
        self.state.switch = Some(Process::start("start the switch", &mut command, &log)?);
        self.save()?;
        self.state.shelf = Some(Shelf::start(&self.places)?);
        self.save()
    }

    fn put_away(&self, folder: &Path) -> Result<()> {
        for machine in self.machines() {
            machine.hang(true)?;
        }
        for machine in self.machines() {
            let (name, own) = (machine.node.as_str(), folder.join(machine.node.as_str()));
            fs::create_dir_all(&own).map_err(Error::file("make", &own))?;
            saved::put_away(&mut machine.panel()?, &own.join(saved::MEMORY))?;
            saved::copy(&self.places.run.join(name).join(OWN_DISK), &own)?;
        }
        saved::copy(self.shelf()?.folder(), folder)?;
        for machine in self.machines() {
            machine.hang(false)?;
            machine.set_clock()?;
        }
        Ok(())
    }

    fn wake(&mut self, saved: &Path, qemu: &Qemu, image: &Image) -> Result<()> {
        saved::copy(&saved.join("shelf"), &self.places.run)?;
        self.start_around()?;
        for node in Node::ALL {
            let own = saved.join(node.as_str());
            saved::copy(&own.join(OWN_DISK), &self.places.run.join(node.as_str()))?;
            self.power_on_with(node, qemu, image, Some(&own.join(saved::MEMORY)))?;
        }
        for machine in self.machines() {
            saved::wake(&mut machine.panel()?)?;
        }
        for machine in self.machines() {
            machine.set_clock()?;
        }
        Ok(())
    }

    /// Cuts the power of a machine: what its kernel had not written is gone, and its partner's cables have no carrier.
    ///
    /// # Errors
    /// A QEMU does not end, or refuses.
    pub fn cut_power(&self, node: Node) -> Result<()> {
        self.machine(node)?.cut_power()?;
        self.carriers()
    }

    /// The interconnect's cables end at the partner: there is carrier where it has power.
    ///
    /// # Errors
    /// QEMU refuses.
    pub fn carriers(&self) -> Result<()> {
        let powered = |node| {
            self.machine(node)
                .ok()
                .filter(|machine| machine.process.is_alive())
        };
        for node in Node::CONTROLLERS {
            let Some(machine) = powered(node) else { continue };
            for leg in [Segment::Leg0, Segment::Leg1] {
                machine.plug(leg, powered(node.partner()).is_some())?;
            }
        }
        Ok(())
    }

    /// Gives power to a machine that has none; its disk is as it left it.
    ///
    /// # Errors
    /// It runs, or its QEMU does not start.
    pub fn power_on(&mut self, node: Node) -> Result<()> {
        let (qemu, image) = self.parts()?;
        self.power_on_with(node, &qemu, &image, None)?;
        self.carriers()
    }

    /// Puts a running machine away as it is, memory and system; it has no power afterwards.
    ///
    /// # Errors
    /// QEMU or the file system refuses.
    pub fn keep(&self, node: Node) -> Result<Kept> {
        let machine = self.machine(node)?;
        let own = self.places.run.join(node.as_str());
        let folder = own.join("kept");
        fs::create_dir_all(&folder).map_err(Error::file("make", &folder))?;
        machine.hang(true)?;
        saved::put_away(&mut machine.panel()?, &folder.join(saved::MEMORY))?;
        machine.cut_power()?;
        saved::copy(&own.join(OWN_DISK), &folder)?;
        let (qemu, image) = self.parts()?;
        Ok(Kept {
            node,
            folder,
            qemu,
            image,
        })
    }

    /// Gives power to a machine that has none, which goes on as it was kept: with that memory, and with that system on its disk.
    /// The second disk of a controller is as the machine has left it since.
    ///
    /// # Errors
    /// It runs, or its QEMU does not start.
    pub fn power_on_as(&mut self, kept: Kept) -> Result<()> {
        let disk = self.places.run.join(kept.node.as_str()).join(OWN_DISK);
        fs::rename(kept.folder.join(OWN_DISK), &disk).map_err(Error::file("put back", &disk))?;
        let memory = kept.folder.join(saved::MEMORY);
        self.power_on_with(kept.node, &kept.qemu, &kept.image, Some(&memory))?;
        saved::wake(&mut self.machine(kept.node)?.panel()?)?;
        self.carriers()
    }

    /// `memory`: the file out of which it goes on; without one it boots.
    fn power_on_with(&mut self, node: Node, qemu: &Qemu, image: &Image, memory: Option<&Path>) -> Result<()> {
        let what = format!("switch {node} on");
        let before = self.state.machines.get(node.as_str());
        if before.is_some_and(|started| started.process.is_alive()) {
            return Err(Error::step(what, "it is on already"));
        }
        let ssh_port = match before {
            Some(started) => started.ssh_port,
            None => free_port()?,
        };
        let folder = self.places.run.join(node.as_str());
        let places = topology::Places {
            own: &folder,
            switch: &self.places.run.join("switch"),
            root: &image.root(),
            kernel: &image.kernel(),
            initrd: &image.initrd(),
        };
        let port = match (&self.state.shelf, node.is_controller()) {
            (Some(shelf), true) => Some(shelf.port(node)),
            _ => None,
        };
        if node.is_controller() {
            state_disk(&folder.join(topology::STATE_DISK))?;
        }
        // Of the life before: what waits for it must not see the old one.
        for stale in ["qmp.sock", "ssh.sock"] {
            let _ = fs::remove_file(folder.join(stale));
        }
        let mut command = qemu.command();
        command.args(topology::arguments(
            node,
            &places,
            port.as_ref(),
            ssh_port,
            tsc_khz(),
        ));
        if let Some(memory) = memory {
            command.arg("-incoming").arg(format!("file:{}", memory.display()));
        }
        let process = Process::start(&what, &mut command, &folder.join("qemu.log"))?;
        self.state
            .machines
            .insert(node.as_str().into(), Started { process, ssh_port });
        self.save()?;
        let socket = folder.join("qmp.sock");
        let there = wait::wait_for(&what, START, || match (process.is_alive(), socket.exists()) {
            (false, _) => Ok(false),
            (true, true) => Ok(true),
            (true, false) => Err("no socket yet".into()),
        })?;
        if there {
            return Ok(());
        }
        let said = fs::read_to_string(folder.join("qemu.log")).unwrap_or_default();
        Err(Error::step(what, format!("QEMU has ended: {}", said.trim())))
    }

    /// A machine that was started, whether it still runs or not.
    ///
    /// # Errors
    /// It was not.
    pub fn machine(&self, node: Node) -> Result<Machine> {
        let Started { process, ssh_port } = self
            .state
            .machines
            .get(node.as_str())
            .ok_or_else(|| Error::step(format!("find {node}"), "it is not on: cargo lab up"))?;
        let folder = self.places.run.join(node.as_str());
        let ssh = Ssh::new(*ssh_port, &self.places.run.join(KEY), &folder);
        Ok(Machine::new(node, *process, &folder, ssh))
    }

    /// The machines that were started.
    pub fn machines(&self) -> impl Iterator<Item = Machine> {
        Node::ALL.into_iter().filter_map(|node| self.machine(node).ok())
    }

    /// The shelf.
    ///
    /// # Errors
    /// The lab is off.
    pub fn shelf(&self) -> Result<&Shelf> {
        let shelf = self.state.shelf.as_ref();
        shelf.ok_or_else(|| Error::step("find the shelf", "it is not on: cargo lab up"))
    }

    /// Ends everything that was started, by its number.
    ///
    /// # Errors
    /// Something does not end.
    pub fn down(&mut self) -> Result<()> {
        for started in self.state.machines.values() {
            started.process.end()?;
        }
        if let Some(shelf) = &self.state.shelf {
            shelf.end()?;
        }
        if let Some(switch) = &self.state.switch {
            switch.end()?;
        }
        self.state = State::default();
        self.save()
    }

    /// How often the kernel of a machine has said on its console that it panicked.
    #[must_use]
    pub fn panics(&self, node: Node) -> usize {
        let said = fs::read(self.console(node)).unwrap_or_default();
        String::from_utf8_lossy(&said).matches("Kernel panic").count()
    }

    /// The file of a machine's console.
    #[must_use]
    pub fn console(&self, node: Node) -> PathBuf {
        self.places.run.join(node.as_str()).join("console.log")
    }
}

/// An empty disk, unless there is one already.
fn state_disk(file: &Path) -> Result<()> {
    const BYTES: u64 = 128 << 20;
    let disk = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(file);
    disk.and_then(|disk| disk.set_len(BYTES))
        .map_err(Error::file("make", file))
}

/// The key of all labs of this workspace: machines that were put away know it.
fn make_key(folder: &Path) -> Result<()> {
    let mut command = SSH_KEYGEN.command()?;
    command
        .args(["-q", "-t", "ed25519", "-N", "", "-C", "lab", "-f"])
        .arg(folder.join(KEY));
    programs::run("make the lab's key", &mut command).map(drop)
}

/// A port of the loopback that nobody has now.
///
/// # Errors
/// There is none.
pub fn free_port() -> Result<u16> {
    TcpListener::bind("127.0.0.1:0")
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(|error| Error::step("find a free port", error))
}

/// How fast the counter of this machine's processor runs, as the kernel of this machine has found.
fn tsc_khz() -> Option<u64> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("cpu MHz"))?;
    let mhz: f64 = line.split(':').nth(1)?.trim().parse().ok()?;
    Some((mhz * 1000.0).round() as u64)
}
