//! One virtual machine: its power, its cables, its clock, and the way in.

use crate::error::{Error, Result};
use crate::process::Process;
use crate::programs::last_lines;
use crate::qmp::Qmp;
use crate::ssh::{Said, Ssh};
use crate::topology::{DiskWay, Node, Segment, ShelfPort, Way};
use crate::wait::wait_for;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// From power to sshd: 21 s alone on an idle machine, 49 s three at once; many times that where others compile.
const BOOT: Duration = Duration::from_secs(900);
/// A command that only looks.
pub const LOOK: Duration = Duration::from_secs(120);
/// Waits until udev has done what it can. What happens to a disk that enclosured has locked keeps it busy for three minutes
/// (`BLOCK_DEVICE_LOCKING` of systemd), and is none of our business.
pub const SETTLED: &str = "udevadm settle --timeout=10 || true";
/// Lines of the console that an error shows.
const CONSOLE: usize = 15;

/// A machine that has been started.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Which.
    pub node: Node,
    /// Its QEMU.
    pub process: Process,
    folder: PathBuf,
    ssh: Ssh,
}

impl Machine {
    /// The machine whose QEMU runs in `folder`.
    #[must_use]
    pub fn new(node: Node, process: Process, folder: &Path, ssh: Ssh) -> Self {
        Self {
            node,
            process,
            folder: folder.to_owned(),
            ssh,
        }
    }

    /// The way in.
    #[must_use]
    pub fn ssh(&self) -> &Ssh {
        &self.ssh
    }

    /// Waits until it can be entered and its system says that all of it is started. Returns how long that took.
    ///
    /// # Errors
    /// It does not come up: the error shows the last lines of its console.
    pub fn wait_up(&self) -> Result<Duration> {
        let start = Instant::now();
        let greeted = wait_for(&format!("{} greets by ssh", self.node), BOOT, || {
            match self.ssh.greets() {
                Ok(()) => Ok(Ok(())),
                // Nothing to wait for.
                Err(_) if !self.process.is_alive() => Ok(Err("its QEMU has ended")),
                Err(seen) => Err(seen),
            }
        });
        let what = format!("start {}", self.node);
        self.with_console(greeted.and_then(|greeted| greeted.map_err(|why| Error::step(what, why))))?;
        // A machine that has just greeted may have too much to do to go on with it in sshd's time.
        let entered = wait_for(&format!("{} lets the lab in", self.node), BOOT, || {
            self.ssh.connect(LOOK).map_err(|error| error.to_string())
        });
        self.with_console(entered)?;
        let state = self.with_console(self.ssh.try_run("systemctl is-system-running --wait", BOOT))?;
        if state.out.trim() != "running" {
            let failed = self.run("systemctl --failed --plain --no-legend")?;
            return Err(Error::step(
                format!("start {}", self.node),
                format!("its system is {}: {}", state.out.trim(), failed.trim()),
            ));
        }
        Ok(start.elapsed())
    }

    fn with_console<T>(&self, result: Result<T>) -> Result<T> {
        result.map_err(|error| {
            let console = std::fs::read(self.folder.join("console.log")).unwrap_or_default();
            let console = String::from_utf8_lossy(&console).into_owned();
            Error::step(
                format!("start {}", self.node),
                format!("{error}\nits console:\n{}", last_lines(&console, CONSOLE)),
            )
        })
    }

    /// Runs a script that only looks, or does little; it must end well.
    ///
    /// # Errors
    /// See [`Ssh::run`]; the error names the machine.
    pub fn run(&self, script: &str) -> Result<String> {
        self.run_within(script, LOOK)
    }

    /// The same with a bound.
    ///
    /// # Errors
    /// See [`Ssh::run`].
    pub fn run_within(&self, script: &str, bound: Duration) -> Result<String> {
        self.ssh
            .run(script, bound)
            .map_err(|error| Error::step(format!("on {}", self.node), error))
    }

    /// The same, whatever it says.
    ///
    /// # Errors
    /// See [`Ssh::try_run`].
    pub fn try_run(&self, script: &str, bound: Duration) -> Result<Said> {
        self.ssh
            .try_run(script, bound)
            .map_err(|error| Error::step(format!("on {}", self.node), error))
    }

    /// The connection through which it is handled from outside.
    ///
    /// # Errors
    /// Its QEMU does not answer.
    pub fn panel(&self) -> Result<Qmp> {
        Qmp::connect(&self.folder.join("qmp.sock"))
    }

    fn qmp(&self, command: &str, arguments: serde_json::Value) -> Result<()> {
        self.panel()?.ask(command, arguments).map(drop)
    }

    /// A way to a disk of the shelf is plugged in; the guest's kernel finds a device more.
    ///
    /// # Errors
    /// QEMU refuses, or the kernel does not find it.
    pub fn plug_disk(&self, way: Way, port: &ShelfPort, slot: u16) -> Result<()> {
        let before = self.devices()?;
        let DiskWay { block, device } = way.to(self.node, port, slot);
        self.qmp("blockdev-add", block)?;
        self.qmp("device_add", device)?;
        self.wait_devices(before + 1)?;
        // Its node belongs to nobody but root until udev has been there.
        self.run(SETTLED).map(drop)
    }

    /// A way to a disk of the shelf is pulled out.
    ///
    /// # Errors
    /// QEMU refuses, or the guest does not let go.
    pub fn pull_disk(&self, way: Way, slot: u16) -> Result<()> {
        let before = self.devices()?;
        self.qmp("device_del", json!({ "id": way.device(slot) }))?;
        self.wait_devices(before - 1)?;
        // QEMU lets go of what was behind it after the guest has.
        wait_for("QEMU logs out of the shelf", LOOK, || {
            self.qmp("blockdev-del", json!({ "node-name": way.block(slot) }))
                .map_err(|error| error.to_string())
        })
    }

    /// Devices of the shelf that its kernel has.
    fn devices(&self) -> Result<u64> {
        let said = self.run("ls /sys/class/scsi_generic | wc -l")?;
        let count = said.trim().parse();
        count.map_err(|error| Error::step("count the devices of the shelf", format!("{error} in {said:?}")))
    }

    fn wait_devices(&self, wanted: u64) -> Result<()> {
        wait_for(
            &format!("{} has {wanted} devices", self.node),
            LOOK,
            || match self.devices().map_err(|error| error.to_string())? {
                found if found == wanted => Ok(()),
                found => Err(format!("{found}")),
            },
        )
    }

    /// Sets its clock to this machine's: that of a machine that was put away has stood still.
    ///
    /// # Errors
    /// It cannot be entered.
    #[expect(
        clippy::disallowed_methods,
        reason = "the clock is for people: for journals that are read side by side"
    )]
    pub fn set_clock(&self) -> Result<()> {
        self.with_console(self.ssh.connect(BOOT))?;
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .map_err(|error| Error::step("read the clock", error))?;
        self.run(&format!("date --set=@{}", now.as_secs())).map(drop)
    }

    /// Its power is cut: what its kernel had not written is gone.
    ///
    /// # Errors
    /// Its QEMU does not end.
    pub fn cut_power(&self) -> Result<()> {
        self.process.end()
    }

    /// All of it stands still, its clock too, or goes on.
    ///
    /// # Errors
    /// QEMU refuses.
    pub fn hang(&self, hung: bool) -> Result<()> {
        self.qmp(if hung { "stop" } else { "cont" }, json!({}))
    }

    /// Which boot of its kernel this is: another word for each.
    ///
    /// # Errors
    /// It cannot be entered.
    pub fn boot(&self) -> Result<String> {
        self.run("cat /proc/sys/kernel/random/boot_id")
    }

    /// Its reset line is pulled: like a power cut, but it starts anew in the same instant.
    ///
    /// # Errors
    /// QEMU refuses.
    pub fn reset(&self) -> Result<()> {
        self.qmp("system_reset", json!({}))
    }

    /// Its kernel panics, and stays so, as soon as a unit says that in its journal: nearer to an event than anybody outside
    /// could be.
    ///
    /// # Errors
    /// It cannot be entered, or waits for this already.
    pub fn panic_at(&self, unit: &str, said: &str) -> Result<()> {
        self.run(&format!(
            "echo 0 > /proc/sys/kernel/panic; systemd-run --collect --unit=lab-panic sh -c \
             'journalctl --follow --lines=0 --output=cat --unit={unit} | grep --quiet --max-count=1 \"{said}\" && \
             echo c > /proc/sysrq-trigger'"
        ))
        .map(drop)
    }

    /// Waits until it is up in another boot than `before`.
    ///
    /// # Errors
    /// It does not come to that.
    pub fn wait_rebooted(&self, before: &str) -> Result<()> {
        let anew = wait_for(&format!("{} boots anew", self.node), BOOT, || {
            // The connection of the boot before leads nowhere.
            self.ssh.forget();
            self.ssh.greets()?;
            let entered = self.ssh.connect(LOOK).and_then(|()| self.boot());
            match entered {
                Ok(now) if now != before => Ok(()),
                Ok(_) => Err("still the same boot".into()),
                Err(error) => Err(error.to_string()),
            }
        });
        self.with_console(anew)?;
        self.wait_up().map(drop)
    }

    /// A cable is pulled out of its interface, or plugged in; the interface sees that.
    ///
    /// # Errors
    /// QEMU refuses.
    pub fn plug(&self, segment: Segment, plugged: bool) -> Result<()> {
        let name = format!("nic-{}", segment.as_str());
        self.qmp("set_link", json!({ "name": name, "up": plugged }))
    }
}
