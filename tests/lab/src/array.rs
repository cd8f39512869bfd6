//! The array that is installed in the machines: from the packages, by the steps that a person takes, and then asked and
//! moved through the operator's own command.
//!
//! Invariant: nothing is done here to the array that its operator could not do. What is done *to* it, power and cables, is
//! [`crate::machine`]'s.

use crate::error::{Error, Result};
use crate::lab::Lab;
use crate::machine::{Machine, SETTLED};
use crate::payload::{CHAP_SECRET, CHAP_USER, INITIATOR};
use crate::programs::{self, DPKG_DEB};
use crate::reservations::{self, Disk};
use crate::shelf::{DATA, OWN, QUORUM};
use crate::topology::Node;
use crate::wait::wait_for;
use pollux_api::config;
use pollux_api::heartbeat::{Incident, STATUS, Status};
use pollux_api::id::ControllerId;
use pollux_api::pool;
use pollux_api::router::TraceReport;
use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

/// Unpacking on an emulated processor.
const INSTALL: Duration = Duration::from_secs(900);
/// From the start of the daemons to one epoch of two members, and from the power of a machine whose partner serves.
pub const JOIN: Duration = Duration::from_secs(900);
/// A takeover or a move, before it is called late; how long it was is told, not judged.
pub const MOVE: Duration = Duration::from_secs(300);
/// What the operator's command may take.
const COMMAND: Duration = Duration::from_secs(240);

/// A pool of the lab's array.
#[derive(Clone, Copy, Debug)]
pub struct Pool {
    /// Its name.
    pub name: &'static str,
    /// Where it belongs.
    pub home: Node,
    /// Slots of its disks, as the shelf and the array know them.
    pub disks: &'static str,
    /// Its volume.
    pub volume: &'static str,
    /// The number under which the host sees the volume.
    pub lun: u16,
    /// Its floating address.
    pub address: &'static str,
}

impl Pool {
    /// The slots of its disks.
    pub fn slots(&self) -> impl Iterator<Item = u16> {
        self.disks.split(',').filter_map(|slot| slot.parse().ok())
    }
}

/// A volume on which the host has a file system.
#[derive(Clone, Copy, Debug)]
pub struct Volume {
    /// Its name.
    pub name: &'static str,
    /// Its pool.
    pub pool: &'static str,
    /// The number under which the host sees it.
    pub lun: u16,
}

/// The host has a file system on this one.
pub const FILES: Volume = Volume {
    name: "alpha-files",
    pool: "alpha",
    lun: 2,
};

/// A pool in a volume group of the kernel, of the case that makes it.
pub const GAMMA: Pool = Pool {
    name: "gamma",
    home: Node::B,
    disks: "4,5",
    volume: "gamma-0",
    lun: 3,
    address: "10.78.0.52",
};

/// A pool for each controller.
pub const POOLS: [Pool; 2] = [
    Pool {
        name: "alpha",
        home: Node::A,
        disks: "0,1",
        volume: "alpha-0",
        lun: 0,
        address: "10.78.0.50",
    },
    Pool {
        name: "beta",
        home: Node::B,
        disks: "2,3",
        volume: "beta-0",
        lun: 1,
        address: "10.78.0.51",
    },
];

/// The array in the machines of a lab.
#[derive(Clone, Copy, Debug)]
pub struct Array<'a> {
    lab: &'a Lab,
}

impl<'a> Array<'a> {
    /// The array of this lab.
    #[must_use]
    pub fn of(lab: &'a Lab) -> Self {
        Self { lab }
    }

    /// Installs the package on both controllers, configures and pairs them, writes the quorum area and starts both; waits
    /// until they are joined. Without a package it goes on where one is installed already.
    ///
    /// # Errors
    /// A step that a person would take fails.
    pub fn install(&self, package: Option<&Path>) -> Result<()> {
        let a = self.lab.machine(Node::A)?;
        let b = self.lab.machine(Node::B)?;
        let (disks, seen) = (reservations::disks(&a)?, reservations::disks(&b)?);
        let wwns = |disks: &[Disk]| -> Vec<String> { disks.iter().map(|disk| disk.wwn.clone()).collect() };
        let slots = wwns(&disks);
        if slots != wwns(&seen) {
            return Err(Error::step(
                "find the disks",
                format!("a sees {disks:?}, b sees {seen:?}"),
            ));
        }
        reservations::hold((a.clone(), &disks[0]), (b.clone(), &seen[0]))?;
        // Both at once, as two people would.
        std::thread::scope(|scope| {
            let Some(package) = package else {
                return Ok(());
            };
            let kept = self.lab.places.run.join(KEPT);
            let whole = fs::canonicalize(package).map_err(Error::file("find", package))?;
            let _ = fs::remove_file(&kept);
            symlink(whole, &kept).map_err(Error::file("make", &kept))?;
            let both = [&a, &b].map(|machine| scope.spawn(move || install(machine, package)));
            both.map(|one| {
                one.join()
                    .unwrap_or_else(|_| Err(Error::step("install the package", "a thread died")))
            })
            .into_iter()
            .collect::<Result<()>>()
        })?;
        for machine in [&a, &b] {
            // Before there is a configuration nothing may run.
            let active = machine.try_run("systemctl is-active heartbeatd", COMMAND)?;
            if active.out.trim() == "active" {
                return Err(Error::broken("nothing runs before it is configured", active.out));
            }
        }
        for machine in [&a, &b] {
            machine.run("timedatectl set-ntp false")?;
        }
        setup(&a, &answers(&slots))?;
        // What the second controller has to be told was written by the first; only its place among the hosts is its own.
        let told = a.run("cat /etc/pollux/partner.toml")?;
        setup(&b, &for_partner(&told))?;
        for machine in [&a, &b] {
            hands_off(machine)?;
            let clock = machine.run("timedatectl show --property=NTP --value")?;
            if clock.trim() != "yes" {
                return Err(Error::broken("setup has the clock kept", clock));
            }
        }
        self.pair()?;
        a.run_within("systemctl start enclosured && pollux quorum format", COMMAND)?;
        for node in Node::CONTROLLERS {
            self.lab
                .machine(node)?
                .run_within("systemctl start pollux.target", COMMAND)?;
        }
        self.wait_joined()
    }

    /// A code that one controller shows is typed on the other one.
    fn pair(&self) -> Result<()> {
        let what = "pair the controllers";
        let failed = |error: std::io::Error| Error::step(what, error);
        let mut show = self
            .lab
            .machine(Node::A)?
            .ssh()
            .prepared("pollux pair show 2>&1")?;
        let mut show = show.stdout(Stdio::piped()).spawn().map_err(failed)?;
        let mut said = BufReader::new(show.stdout.take().ok_or_else(|| Error::step(what, "no pipe"))?);
        let mut text = String::new();
        let code = loop {
            let mut line = String::new();
            if said.read_line(&mut line).map_err(failed)? == 0 {
                return Err(Error::step(what, format!("no code was shown: {text}")));
            }
            if let Some(code) = code_in(&line) {
                break code;
            }
            text += &line;
        };
        let mut enter = self
            .lab
            .machine(Node::B)?
            .ssh()
            .prepared("pollux pair enter 2>&1")?;
        enter.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut enter = enter.spawn().map_err(failed)?;
        if let Some(mut input) = enter.stdin.take() {
            writeln!(input, "{code}").map_err(failed)?;
        }
        let entered = enter.wait_with_output().map_err(failed)?;
        // It ends once it is paired, or has had enough.
        let mut rest = String::new();
        said.read_to_string(&mut rest).map_err(failed)?;
        let shown = show.wait().map_err(failed)?;
        if shown.success() && entered.status.success() {
            return Ok(());
        }
        let entered = String::from_utf8_lossy(&entered.stdout).into_owned();
        Err(Error::step(what, format!("a: {rest} b: {entered}")))
    }

    /// Makes a pool, a volume and a floating address for each controller, and shows both volumes to the host.
    ///
    /// # Errors
    /// A command is refused.
    pub fn provision(&self) -> Result<()> {
        let a = self.lab.machine(Node::A)?;
        let command = |words: &str| a.run_within(&format!("pollux {words}"), COMMAND).map(drop);
        command(&format!("host create lab --iqn {INITIATOR}"))?;
        a.run_within(
            &format!(
                "printf %s {CHAP_SECRET} | pollux config set key lab-chap purpose=chap user={CHAP_USER} host=lab secret=@-"
            ),
            COMMAND,
        )?;
        for pool in POOLS {
            self.create(pool)?;
        }
        let Volume { name, pool, lun } = FILES;
        command(&format!("volume create {name} --pool {pool} --size 64M"))?;
        command(&format!("map create {name} lab --lun {lun}"))?;
        for pool in POOLS {
            self.wait_owner(pool, pool.home, MOVE)?;
        }
        Ok(())
    }

    /// Makes a pool with its volume and its address, and shows the volume to the host.
    ///
    /// # Errors
    /// A command is refused.
    pub fn create(&self, pool: Pool) -> Result<()> {
        let a = self.lab.machine(Node::A)?;
        let Pool {
            name,
            home,
            disks,
            volume,
            lun,
            address,
        } = pool;
        for words in [
            format!("pool create {name} --home {home} --disks {disks} --wait 200"),
            format!("volume create {volume} --pool {name} --size 64M"),
            format!("map create {volume} lab --lun {lun}"),
            format!("address create {address}/24 --pool {name}"),
        ] {
            a.run_within(&format!("pollux {words}"), COMMAND)?;
        }
        Ok(())
    }

    /// Deletes a pool with its volume, which the host has forgotten.
    ///
    /// # Errors
    /// A command is refused.
    pub fn delete(&self, pool: Pool) -> Result<()> {
        let a = self.lab.machine(Node::A)?;
        let Pool {
            name,
            volume,
            address,
            ..
        } = pool;
        for words in [
            format!("address delete {address}/24"),
            format!("map delete {volume} lab"),
            format!("volume delete {volume}"),
            format!("pool delete {name}"),
        ] {
            a.run_within(&format!("pollux {words}"), COMMAND)?;
        }
        Ok(())
    }

    /// Makes a member of a controller that knows nothing: with the answers that the first one wrote for it, a code, and no word
    /// about quorum disks, which are the array's.
    ///
    /// # Errors
    /// A step that a person would take fails.
    pub fn exchange_second(&self) -> Result<()> {
        let b = self.lab.machine(Node::B)?;
        let told = self.lab.machine(Node::A)?.run("cat /etc/pollux/partner.toml")?;
        setup_at_terminal(&b, &told)?;
        // The one that stays serves all the while; its router has to let go of the keys for as long as they are made anew, and
        // whoever has read the old ones starts again.
        let a = self.lab.machine(Node::A)?;
        a.run_within("systemctl stop rpc-routerd", COMMAND)?;
        self.pair()?;
        a.run_within(
            "set -e; systemctl start rpc-routerd
             for daemon in config-keeperd block-targetd heartbeatd; do systemctl try-restart $daemon; done",
            COMMAND,
        )?;
        b.run_within("systemctl start pollux.target", COMMAND).map(drop)
    }

    /// Heartbeat's view at a controller.
    ///
    /// # Errors
    /// It does not answer, in words.
    pub fn status(&self, node: Node) -> std::result::Result<Status, String> {
        let machine = self.lab.machine(node).map_err(|error| error.to_string())?;
        let text = machine
            .run(&format!("pollux call {STATUS}"))
            .map_err(|error| error.to_string())?;
        serde_json::from_str(&text).map_err(|error| format!("{node}: {error} in {text}"))
    }

    /// Config Keeper's view at a controller.
    ///
    /// # Errors
    /// It does not answer, in words.
    pub fn keeper(&self, node: Node) -> std::result::Result<config::Status, String> {
        let machine = self.lab.machine(node).map_err(|error| error.to_string())?;
        let text = machine
            .run(&format!("pollux call {}", config::STATUS))
            .map_err(|error| error.to_string())?;
        serde_json::from_str(&text).map_err(|error| format!("{node}: {error} in {text}"))
    }

    /// What is wrong with the configuration that a controller keeps: its rows, held against its log.
    ///
    /// # Errors
    /// It does not answer.
    pub fn verify(&self, node: Node) -> Result<Vec<String>> {
        let text = self
            .lab
            .machine(node)?
            .run(&format!("pollux call {}", config::VERIFY))?;
        let verified: config::Verified = serde_json::from_str(&text)
            .map_err(|error| Error::step("read what is wrong with the configuration", error))?;
        Ok(verified.problems)
    }

    /// Waits until both controllers are members of one open epoch, say so, and take changes.
    ///
    /// # Errors
    /// It does not come to that.
    pub fn wait_joined(&self) -> Result<()> {
        wait_for("both controllers are joined", JOIN, || {
            for node in Node::CONTROLLERS {
                let status = self.status(node)?;
                let epoch = status
                    .epoch
                    .ok_or_else(|| format!("{node}: no epoch, {}", status.state))?;
                if epoch.members.len() != 2 || !epoch.open {
                    return Err(format!("{node}: epoch {epoch:?}, {}", status.state));
                }
                if let Some(lock) = status.config_lock {
                    return Err(format!("{node}: locked, {}", lock.reason));
                }
            }
            Ok(())
        })
    }

    /// Waits until a controller says that it serves a pool.
    ///
    /// # Errors
    /// It does not within `bound`.
    pub fn wait_owner(&self, pool: Pool, node: Node, bound: Duration) -> Result<()> {
        wait_for(&format!("{node} serves {}", pool.name), bound, || {
            self.serves(pool, node)
        })
    }

    /// Every disk of every pool that a controller has imported holds all that was acknowledged.
    ///
    /// # Errors
    /// One does not, or the controller does not answer.
    pub fn in_sync(&self, node: Node) -> std::result::Result<(), String> {
        let machine = self.lab.machine(node).map_err(|error| error.to_string())?;
        let text = machine
            .run(&format!("pollux call {}", pool::STATUS))
            .map_err(|error| error.to_string())?;
        let status: pool::Status =
            serde_json::from_str(&text).map_err(|error| format!("{node}: {error} in {text}"))?;
        let mut legs = status.imported.iter().flat_map(|pool| &pool.health.legs);
        match legs.find(|leg| leg.state != pool::LegState::InSync) {
            None => Ok(()),
            Some(leg) => Err(format!("{node}: {leg:?}")),
        }
    }

    /// Whether a controller says that it serves a pool; otherwise what it says.
    ///
    /// # Errors
    /// It does not.
    pub fn serves(&self, pool: Pool, node: Node) -> std::result::Result<(), String> {
        serving(&self.status(node)?, pool, node)
    }

    /// Whether a controller says that it does not serve a pool: that there is no answer says nothing.
    ///
    /// # Errors
    /// It serves it, or does not answer.
    pub fn has_given_up(&self, pool: Pool, node: Node) -> std::result::Result<(), String> {
        let status = self.status(node)?;
        match serving(&status, pool, node) {
            Ok(()) => Err(format!("{node} says that it serves {}", pool.name)),
            Err(_) => Ok(()),
        }
    }

    /// Waits until every pool is served where it belongs; asks for it meanwhile.
    ///
    /// # Errors
    /// It does not come to that.
    pub fn wait_home(&self) -> Result<()> {
        wait_for("every pool is at home", JOIN, || {
            for pool in POOLS {
                self.serves(pool, pool.home).map_err(|seen| {
                    let away = pool.home.partner();
                    // It may be on its way already: asked again it is refused, which does no harm.
                    let asked = self
                        .lab
                        .machine(away)
                        .and_then(|machine| machine.try_run("pollux giveback --yes --wait 0", COMMAND));
                    format!("{seen}; asked: {:?}", asked.map(|said| said.err))
                })?;
            }
            Ok(())
        })
    }

    /// Waits until a controller's configuration is locked, or is no longer.
    ///
    /// # Errors
    /// It does not come to that.
    pub fn wait_locked(&self, node: Node, locked: bool) -> Result<()> {
        wait_for(
            &format!("the configuration is locked on {node}: {locked}"),
            MOVE,
            || {
                let status = self.status(node)?;
                if status.config_lock.is_some() == locked {
                    Ok(())
                } else {
                    Err(format!("{node}: {}, wire {}", status.state, status.wire.state))
                }
            },
        )
    }

    /// A change is refused at a controller whose configuration is locked, and the reason is told.
    ///
    /// # Errors
    /// [`Error::Broken`]: it is taken, or refused for something else.
    pub fn refuses_changes(&self, node: Node) -> Result<()> {
        let said = self.lab.machine(node)?.try_run(
            "pollux host create nobody --iqn iqn.2026-01.pollux.lab:nobody",
            COMMAND,
        )?;
        if !said.status.success() && said.err.contains("locked") {
            return Ok(());
        }
        Err(Error::broken(
            "no change is taken while the configuration is locked",
            format!("{node}: {}, {}{}", said.status, said.out, said.err),
        ))
    }

    /// Waits until an alarm of that kind stands at a controller, or none does any longer.
    ///
    /// # Errors
    /// It does not come to that.
    pub fn wait_alarm(&self, node: Node, id: &str, stands: bool) -> Result<()> {
        wait_for(&format!("alarm {id} stands on {node}: {stands}"), MOVE, || {
            let status = self.status(node)?;
            if status.alarms.iter().any(|alarm| alarm.id == id) == stands {
                Ok(())
            } else {
                Err(format!("{:?}", status.alarms))
            }
        })
    }

    /// Begins a planned move of a pool away from its home, and calls it off at once.
    ///
    /// # Errors
    /// It is refused: it was past its point of no return, or had arrived.
    pub fn switchover_and_abort(&self, pool: Pool) -> Result<()> {
        let name = pool.name;
        let script = format!("pollux switchover {name} --yes --wait 0; pollux abort {name}");
        self.lab
            .machine(pool.home)?
            .run_within(&script, COMMAND)
            .map(drop)
    }

    /// Takeovers and moves as both controllers tell them, newest first.
    ///
    /// # Errors
    /// Nobody answers, or not in the words of the contract.
    pub fn timeline(&self) -> Result<Vec<Incident>> {
        #[derive(serde::Deserialize)]
        struct Report {
            incidents: Vec<Incident>,
        }
        let text = self
            .lab
            .machine(Node::B)?
            .run("pollux --json timeline --limit 40")?;
        let report: Report =
            serde_json::from_str(&text).map_err(|error| Error::step("read the timeline", error))?;
        Ok(report.incidents)
    }

    /// What an action has caused, as both routers saw it.
    ///
    /// # Errors
    /// Nobody has seen it.
    pub fn trace(&self, action: &str) -> Result<TraceReport> {
        let text = self
            .lab
            .machine(Node::B)?
            .run(&format!("pollux --json trace {action} --limit 1000"))?;
        serde_json::from_str(&text).map_err(|error| Error::step("read the trace", error))
    }

    /// Moves a pool to the partner of its owner, planned, and waits until it is there.
    ///
    /// # Errors
    /// It is refused, or does not arrive.
    pub fn switchover(&self, pool: Pool, from: Node) -> Result<()> {
        let machine = self.lab.machine(from)?;
        machine.run_within(
            &format!("pollux switchover {} --yes --wait 200", pool.name),
            COMMAND,
        )?;
        self.wait_owner(pool, from.partner(), MOVE)
    }
}

/// Whether a controller serves a pool, by its own status.
fn serving(status: &Status, pool: Pool, node: Node) -> std::result::Result<(), String> {
    let found = status
        .pools
        .iter()
        .find(|known| known.name.as_deref() == Some(pool.name));
    let found = found.ok_or_else(|| format!("{node} does not know {} yet", pool.name))?;
    // What went wrong last stands behind it in parentheses.
    let state = found.state.split(" (").next();
    if found.owner == Some(id(node)) && state == Some("serving") {
        Ok(())
    } else {
        Err(format!(
            "{node}: {} (owner {:?}), {}",
            found.state, found.owner, status.state
        ))
    }
}

/// The controller's name in messages.
fn id(node: Node) -> ControllerId {
    if node == Node::A {
        ControllerId::A
    } else {
        ControllerId::B
    }
}

/// Eight digits in a line, however they are set apart.
fn code_in(line: &str) -> Option<String> {
    let line = line.trim();
    let plain = line.chars().all(|c| c.is_ascii_digit() || c == ' ' || c == '-');
    let digits = line.chars().filter(char::is_ascii_digit).count();
    (plain && digits == 8).then(|| line.to_owned())
}

/// Runs `pollux setup` with a file of answers.
fn setup(machine: &Machine, answers: &str) -> Result<()> {
    let script = format!(
        "cat > /var/tmp/answers.toml <<'END'\n{answers}END\npollux setup --yes --answers /var/tmp/answers.toml"
    );
    machine.run_within(&script, COMMAND).map(drop)
}

/// Has udev hear of what setup wrote for it. Every disk of the shelf is left alone from then on, by a name that its kernel knows.
fn hands_off(machine: &Machine) -> Result<()> {
    machine.run("udevadm control --reload && udevadm trigger --subsystem-match=block")?;
    wait_for("udev leaves the shelf's disks alone", MOVE, || {
        let said = machine
            .run(&format!(
                "{SETTLED}; for disk in /sys/block/sd*; do \
                 udevadm info --query=property --property=SYSTEMD_READY --value --path=$disk; done | sort | uniq --count"
            ))
            .map_err(|error| error.to_string())?;
        match said.split_whitespace().collect::<Vec<_>>()[..] {
            [count, "0"] if count == (DATA + QUORUM).to_string() => Ok(()),
            _ => Err(said),
        }
    })
}

/// Runs `pollux setup` at a terminal, with what the partner wrote down: it asks for what is this controller's own, and once more
/// before it writes.
fn setup_at_terminal(machine: &Machine, told: &str) -> Result<()> {
    let command = "pollux setup --answers /var/tmp/partner.toml";
    machine.run(&format!("cat > /var/tmp/partner.toml <<'END'\n{told}END"))?;
    let refused = machine.ssh().typed(command, &["eth9", "eth3", "n"], COMMAND)?;
    let left = machine.run("ls /etc/pollux 2> /dev/null || true")?;
    if refused.status.success() || !refused.out.contains("nothing was done") || !left.trim().is_empty() {
        return Err(Error::broken(
            "nothing is written before somebody says yes",
            format!("{}: {}; there is {left:?}", refused.status, refused.out),
        ));
    }
    let written = machine.ssh().typed(command, &["eth3", "y"], COMMAND)?;
    if written.status.success() {
        hands_off(machine)
    } else {
        Err(Error::step("set a controller up at a terminal", written.out))
    }
}

/// What a person answers on the first controller: which disk is in which slot, as the shelf numbers them, so that the log
/// of the shelf and the array speak of the same ones.
fn answers(wwns: &[String]) -> String {
    let mut text = format!(
        "controller = \"{}\"\nprofile = \"safe\"\n[interconnect]\npartner = \"{}\"\n{}[quorum]\ndisks = {:?}\n",
        Node::A,
        Node::B.interconnect().unwrap_or_default(),
        front(Node::A),
        (DATA..DATA + QUORUM).collect::<Vec<_>>()
    );
    for (slot, wwn) in wwns.iter().enumerate() {
        let quorum = slot >= usize::from(DATA);
        // Those of the first pools belong to the array's own backend, the rest to the kernel's volume groups.
        let kernel = !quorum && slot >= usize::from(OWN);
        let _ = write!(
            text,
            "[[disk]]\nslot = {slot}\nwwn = \"{wwn}\"\nquorum = {quorum}\nkernel = {kernel}\n"
        );
    }
    text
}

fn front(node: Node) -> String {
    format!("[front]\ninterface = \"eth3\"\naddress = \"{}\"\n", node.front())
}

/// The answers that the first controller wrote for the second, with what only the second knows.
fn for_partner(told: &str) -> String {
    let rest: String = told
        .lines()
        .filter(|line| line.trim() != "[front]")
        .flat_map(|line| [line, "\n"])
        .collect();
    rest + &front(Node::B)
}

/// Installs a package in a machine.
///
/// # Errors
/// dpkg refuses.
pub fn install(machine: &Machine, package: &Path) -> Result<()> {
    let name = package
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    machine.ssh().copy_in(&[package.to_owned()], "/var/tmp/")?;
    machine
        .run_within(&format!("dpkg --install /var/tmp/{name}"), INSTALL)
        .map(drop)
}

/// The package that was installed last on a controller, for its shell.
pub const INSTALLED: &str = "$(ls -t /var/tmp/pollux_*.deb | head -n 1)";
/// Name by which the lab keeps the controllers' package.
const KEPT: &str = "pollux.deb";

/// A package of a higher version, out of one that a machine has already: only what is written about it differs, and that
/// stands in front (deb(5)). So the rest of it, which is large, has not to be carried into an emulated machine.
#[derive(Clone, Debug)]
pub struct Newer {
    /// Its version.
    pub version: String,
    /// What stands in front of the files.
    head: PathBuf,
    /// Where the files begin in the older one, bytes.
    files_at: usize,
}

impl Newer {
    /// What was installed on the controllers, with a higher version.
    ///
    /// # Errors
    /// Nothing was installed from here, or dpkg-deb fails.
    pub fn make(lab: &Lab) -> Result<Self> {
        let what = "make a newer package";
        let kept = lab.places.run.join(KEPT);
        let tree = lab.places.run.join("newer");
        if tree.exists() {
            fs::remove_dir_all(&tree).map_err(Error::file("remove", &tree))?;
        }
        fs::create_dir_all(&tree).map_err(Error::file("make", &tree))?;
        let about = tree.join("DEBIAN");
        let mut unpack = DPKG_DEB.command()?;
        programs::run(what, unpack.arg("--control").args([&kept, &about]))?;
        let control = about.join("control");
        let text = fs::read_to_string(&control).map_err(Error::file("read", &control))?;
        let older = text
            .lines()
            .find_map(|line| line.strip_prefix("Version: "))
            .ok_or_else(|| Error::step(what, format!("{}: no version", control.display())))?;
        let version = format!("{older}+lab");
        let text = text.replace(&format!("Version: {older}\n"), &format!("Version: {version}\n"));
        fs::write(&control, text).map_err(Error::file("write", &control))?;
        let without = lab.places.run.join("without-files.deb");
        let mut pack = DPKG_DEB.command()?;
        pack.args(["--root-owner-group", "--build"])
            .args([&tree, &without]);
        programs::run(what, &mut pack)?;
        let read = |file: &Path| fs::read(file).map_err(Error::file("read", file));
        let (older, front) = (read(&kept)?, read(&without)?);
        let files = |deb: &[u8]| files_in(deb).map_err(|why| Error::step(what, why));
        let head = lab.places.run.join("newer.head");
        fs::write(&head, &front[..files(&front)?]).map_err(Error::file("write", &head))?;
        Ok(Self {
            version,
            head,
            files_at: files(&older)?,
        })
    }

    /// Installs it on a controller that was installed with the older one.
    ///
    /// # Errors
    /// dpkg refuses.
    pub fn install(&self, machine: &Machine) -> Result<()> {
        machine
            .ssh()
            .copy_in(std::slice::from_ref(&self.head), "/var/tmp/")?;
        let script = format!(
            "cd /var/tmp && {{ cat newer.head; tail --bytes=+{} \"{INSTALLED}\"; }} > newer.deb && \
             mv newer.deb pollux_{}_amd64.deb && dpkg --install pollux_{}_amd64.deb",
            self.files_at + 1,
            self.version,
            self.version
        );
        machine.run_within(&script, INSTALL).map(drop)
    }
}

/// Where the part with the files begins in a package, which is an archive of three parts: header lines of 60 bytes, in which
/// the name stands first and the length at 48, each part at an even place (deb(5), ar(5)).
fn files_in(deb: &[u8]) -> std::result::Result<usize, String> {
    const MAGIC: &[u8] = b"!<arch>\n";
    const HEADER: usize = 60;
    if !deb.starts_with(MAGIC) {
        return Err("it is no package: no archive".into());
    }
    let mut at = MAGIC.len();
    while let Some(header) = deb.get(at..at + HEADER) {
        if header.starts_with(b"data.tar") {
            return Ok(at);
        }
        let length = std::str::from_utf8(&header[48..58]).ok();
        let length: usize = length
            .and_then(|text| text.trim().parse().ok())
            .ok_or_else(|| format!("it is no package: byte {at} begins no part"))?;
        at += HEADER + length.next_multiple_of(2);
    }
    Err("it is no package: it has no part data.tar".into())
}

/// A package in a folder of those that `cargo debs` has made.
///
/// # Errors
/// It is not there, or more than one version is.
pub fn package(folder: &Path, name: &str) -> Result<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut found = entries.map(|entry| entry.path()).filter(|path| {
        let file = path
            .file_name()
            .and_then(|file| file.to_str())
            .unwrap_or_default();
        file.starts_with(&format!("{name}_")) && file.ends_with(".deb")
    });
    match (found.next(), found.next()) {
        (Some(one), None) => Ok(one),
        _ => Err(Error::step(
            format!("find the package {name}"),
            format!("one {name}_*.deb is needed in {}: cargo debs", folder.display()),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_found_however_it_is_set() {
        assert_eq!(code_in("    1234 5678\n").as_deref(), Some("1234 5678"));
        assert_eq!(code_in("12345678").as_deref(), Some("12345678"));
        assert_eq!(code_in("Type this code on controller b, within 5 minutes:"), None);
        assert_eq!(code_in("1234"), None);
    }

    #[test]
    fn files_of_a_package_begin_with_their_header() {
        let part = |name: &str, content: &str| format!("{name:<48}{:<10}`\n{content}", content.len());
        let deb = [
            "!<arch>\n",
            &part("debian-binary", "2.0\n"),
            &part("control.tar.xz", "abc"),
            "\n",
            &part("data.tar.xz", "files"),
        ]
        .concat();
        let at = files_in(deb.as_bytes()).expect("a package");
        assert!(deb[at..].starts_with("data.tar.xz"), "{at}");
        assert!(files_in(&deb.as_bytes()[..at]).is_err());
        assert!(files_in(b"something").is_err());
        let torn = deb.replace("4         `", "four      `");
        assert!(files_in(torn.as_bytes()).is_err());
    }

    #[test]
    fn the_quorum_disks_are_the_last_ones() {
        let wwns: Vec<String> = (0..DATA + QUORUM).map(|n| format!("naa.{n}")).collect();
        let text = answers(&wwns);
        assert_eq!(text.matches("quorum = true").count(), usize::from(QUORUM));
        assert!(text.contains("slot = 0\nwwn = \"naa.0\"\nquorum = false\nkernel = false"));
        assert!(text.contains("slot = 4\nwwn = \"naa.4\"\nquorum = false\nkernel = true"));
        assert!(text.contains("disks = [7, 8, 9]"));
        let second = for_partner("controller = \"b\"\n[front]\n[[disk]]\nslot = 0\n");
        assert_eq!(second.matches("[front]").count(), 1);
        assert!(second.contains("address = \"10.78.0.2\""), "{second}");
    }
}
