//! A whole array as a test holds it: the enclosure's front panel in one hand, both controllers'
//! routers in the other.
//!
//! The enclosure is a process of its own (`pollux-chassis`), started on a directory and ended with
//! it. Everything asked of the array goes the way an operator's command goes: through a
//! controller's router, under an action that can be traced. Everything done *to* it goes through
//! the front panel.
//!
//! Calls block; each has a bound.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use pollux_api::action::ActionId;
use pollux_api::error::RpcError;
use pollux_api::id::{ControllerId, DiskIndex, PoolId};
use pollux_api::{address, chassis, config, heartbeat, router, target};
use pollux_platform::lines::{CallError, LineClient};
use pollux_runtime::{Client, Ctx};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::runtime::Runtime;

use crate::error::{Error, Result};
use crate::programs::Programs;
use crate::wait::wait_for;

/// How an array is to be built.
#[derive(Clone, Debug)]
pub struct Options {
    /// Its directory; kept short, because sockets live in it.
    pub directory: PathBuf,
    /// Disks in the shelf, quorum disks among them.
    pub disks: u16,
    /// Quorum disks.
    pub quorum: u16,
    /// Size of a disk, bytes.
    pub disk_bytes: u64,
    /// Timing profile.
    pub profile: String,
    /// Seed of everything that the shelf decides by chance.
    pub seed: u64,
}

impl Options {
    /// Three quorum disks and two mirrors of two, on `directory`.
    pub fn new(directory: &Path) -> Self {
        Options {
            directory: directory.to_owned(),
            disks: 7,
            quorum: 3,
            disk_bytes: 128 << 20,
            profile: "fast".into(),
            seed: 1,
        }
    }
}

/// How long any single answer may take.
const ANSWER: Duration = Duration::from_secs(5);
/// How long power, boot or an orderly end may take.
const DEED: Duration = Duration::from_secs(30);

/// A running array. Dropping it ends it.
pub struct Array {
    runtime: Runtime,
    directory: PathBuf,
    programs: Programs,
    panel: Mutex<LineClient>,
    enclosure: Mutex<Child>,
}

impl Array {
    /// Starts the enclosure; it starts the controllers.
    pub fn start(programs: &Programs, options: &Options) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(|err| Error::step("start a runtime", err))?;
        std::fs::create_dir_all(&options.directory)
            .map_err(|err| Error::step(format!("make {}", options.directory.display()), err))?;
        let log = options.directory.join("chassis.log");
        let log_file =
            File::create(&log).map_err(|err| Error::step(format!("make {}", log.display()), err))?;
        let enclosure = Command::new(programs.chassis())
            .arg("run")
            .arg("--dir")
            .arg(&options.directory)
            .args(["--disks", &options.disks.to_string()])
            .args(["--quorum", &options.quorum.to_string()])
            .args(["--disk-size", &options.disk_bytes.to_string()])
            .args(["--profile", &options.profile])
            .args(["--seed", &options.seed.to_string()])
            .stdin(Stdio::null())
            .stdout(
                log_file
                    .try_clone()
                    .map_err(|err| Error::step("share the log", err))?,
            )
            .stderr(log_file)
            .spawn()
            .map_err(|err| Error::step(format!("start {}", programs.chassis().display()), err))?;
        let panel = Mutex::new(LineClient::new(&options.directory.join(chassis::SOCKET)));
        let array = Array {
            runtime,
            directory: options.directory.clone(),
            programs: programs.clone(),
            panel,
            enclosure: Mutex::new(enclosure),
        };
        wait_for("the enclosure answers on its front panel", DEED, || {
            array.panel_state(&log)
        })?;
        Ok(array)
    }

    fn panel_state(&self, log: &Path) -> std::result::Result<(), String> {
        let ended = self.enclosure.lock().expect("no panic under the lock").try_wait();
        if let Ok(Some(status)) = ended {
            let said = std::fs::read_to_string(log).unwrap_or_default();
            return Err(format!(
                "the enclosure has ended ({status}): {}",
                last_lines(&said, 5)
            ));
        }
        self.enclosure_status().map(|_| ()).map_err(|err| err.to_string())
    }

    /// Where it lives.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The programs that it was started from.
    pub fn programs(&self) -> &Programs {
        &self.programs
    }

    /// The runtime on which this handle does its calls; for clients of a test's own.
    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    // The front panel.

    /// Presses a button.
    pub fn panel<P: Serialize, R: DeserializeOwned>(&self, method: &str, params: Option<P>) -> Result<R> {
        let mut panel = self.panel.lock().expect("no panic under the lock");
        self.runtime
            .block_on(panel.call(method, params, DEED))
            .map_err(|err: CallError| Error::step(format!("front panel, {method}"), err))
    }

    fn press<P: Serialize>(&self, method: &str, params: P) -> Result<chassis::Done> {
        self.panel(method, Some(params))
    }

    /// What the enclosure knows of itself.
    pub fn enclosure_status(&self) -> Result<chassis::Status> {
        self.panel::<(), _>(chassis::STATUS, None)
    }

    /// The power button.
    pub fn power(&self, controller: ControllerId, action: chassis::PowerAction) -> Result<chassis::Done> {
        self.press(chassis::POWER, chassis::SetPower { controller, action })
    }

    /// Stops every process of a controller, or lets them go on.
    pub fn hang(&self, controller: ControllerId, hung: bool) -> Result<chassis::Done> {
        self.press(chassis::HANG, chassis::SetHung { controller, hung })
    }

    /// An orderly restart.
    pub fn reboot(&self, controller: ControllerId) -> Result<chassis::Done> {
        self.press(
            chassis::REBOOT,
            chassis::Reboot {
                controller,
                grace_ms: 10_000,
            },
        )
    }

    /// A signal to one daemon.
    pub fn daemon(
        &self,
        controller: ControllerId,
        daemon: &str,
        action: chassis::DaemonAction,
    ) -> Result<chassis::Done> {
        let daemon = daemon.to_owned();
        self.press(
            chassis::DAEMON,
            chassis::SignalDaemon {
                controller,
                daemon,
                action,
            },
        )
    }

    /// One leg of the interconnect.
    pub fn leg(&self, leg: u8, cable: chassis::Cable) -> Result<chassis::Done> {
        self.press(chassis::LEG, chassis::SetLeg { leg, cable })
    }

    /// Both legs.
    pub fn interconnect(&self, cable: chassis::Cable) -> Result<chassis::Done> {
        let first = self.leg(0, cable)?;
        let second = self.leg(1, cable)?;
        Ok(chassis::Done {
            done_ns: second.done_ns,
            ..first
        })
    }

    /// A controller's path to one disk, or to the whole shelf.
    pub fn disk_path(
        &self,
        controller: ControllerId,
        disk: Option<DiskIndex>,
        connected: bool,
    ) -> Result<chassis::Done> {
        self.press(
            chassis::DISK_PATH,
            chassis::SetDiskPath {
                controller,
                disk,
                connected,
            },
        )
    }

    /// Makes a disk misbehave, or behave.
    pub fn disk_fault(
        &self,
        disk: DiskIndex,
        port: Option<ControllerId>,
        fault: chassis::DiskFault,
    ) -> Result<chassis::Done> {
        self.press(chassis::DISK_FAULT, chassis::SetDiskFault { disk, port, fault })
    }

    /// The shelf's power.
    pub fn shelf_power(&self, action: chassis::PowerAction) -> Result<chassis::Done> {
        self.press(chassis::SHELF_POWER, chassis::SetShelfPower { action })
    }

    /// Whether a controller can switch its partner off.
    pub fn bmc(&self, controller: ControllerId, reachable: bool) -> Result<chassis::Done> {
        self.press(
            chassis::BMC,
            chassis::SetBmc {
                controller,
                reachable,
            },
        )
    }

    /// Whether a controller's watchdog acts.
    pub fn watchdog(&self, controller: ControllerId, enabled: bool) -> Result<chassis::Done> {
        self.press(chassis::WATCHDOG, chassis::SetWatchdog { controller, enabled })
    }

    /// Everything as new.
    pub fn heal(&self) -> Result<chassis::Done> {
        self.panel::<(), _>(chassis::HEAL, None)
    }

    /// The enclosure's journal.
    pub fn journal(&self) -> Result<Vec<chassis::Event>> {
        self.panel(chassis::EVENTS, Some(chassis::EventQuery::default()))
    }

    // The routers.

    /// Calls a method through the router of a controller, under an action of its own.
    pub fn call<P: Serialize, R: DeserializeOwned>(
        &self,
        at: ControllerId,
        method: &str,
        params: &P,
    ) -> std::result::Result<R, RpcError> {
        self.call_within(at, method, params, ANSWER)
            .map(|(_, answer)| answer)
    }

    /// The same with a bound, and the action under which it can be traced.
    pub fn call_within<P: Serialize, R: DeserializeOwned>(
        &self,
        at: ControllerId,
        method: &str,
        params: &P,
        within: Duration,
    ) -> std::result::Result<(ActionId, R), RpcError> {
        let socket = self.directory.join(at.as_str()).join("run/router.sock");
        let ctx = Ctx::new(within);
        self.runtime.block_on(async {
            let client = Client::connect(&socket).await.map_err(|err| {
                let what = format!("{}: {err}", socket.display());
                RpcError::new(pollux_api::error::Code::RouterGone, "test", what)
            })?;
            let answer = client.call(method, params, &ctx).await;
            client.close().await;
            answer.map(|answer| (ctx.action, answer))
        })
    }

    /// Heartbeat's view at a controller.
    pub fn heartbeat(&self, at: ControllerId) -> std::result::Result<heartbeat::Status, String> {
        self.call(at, heartbeat::STATUS, &())
            .map_err(|err| format!("{at}: {err}"))
    }

    /// The configuration's state at a controller.
    pub fn config(&self, at: ControllerId) -> std::result::Result<config::Status, String> {
        self.call(at, config::STATUS, &())
            .map_err(|err| format!("{at}: {err}"))
    }

    /// The target at a controller.
    pub fn target(&self, at: ControllerId) -> std::result::Result<target::Status, String> {
        self.call(at, target::STATUS, &())
            .map_err(|err| format!("{at}: {err}"))
    }

    /// The floating addresses at a controller.
    pub fn addresses(&self, at: ControllerId) -> std::result::Result<address::Status, String> {
        self.call(at, address::STATUS, &())
            .map_err(|err| format!("{at}: {err}"))
    }

    /// Incidents as a controller noted them, newest first.
    pub fn timeline(&self, at: ControllerId) -> std::result::Result<Vec<heartbeat::Incident>, String> {
        self.call(at, heartbeat::TIMELINE, &heartbeat::TimelineQuery::default())
            .map_err(|err| format!("{at}: {err}"))
    }

    /// Everything that happened under an action.
    pub fn trace(
        &self,
        at: ControllerId,
        action: ActionId,
    ) -> std::result::Result<router::TraceReport, String> {
        let ask = router::Trace {
            action_id: Some(action),
            also: vec![],
            limit: Some(10_000),
            local: false,
        };
        self.call(at, router::TRACE, &ask)
            .map_err(|err| format!("{at}: {err}"))
    }

    /// Changes the configuration through a controller.
    pub fn change(
        &self,
        at: ControllerId,
        ops: Vec<config::Op>,
    ) -> std::result::Result<(ActionId, config::Changed), RpcError> {
        let change = config::Change {
            ops,
            expected_index: None,
            dry_run: false,
        };
        self.call_within(at, config::CHANGE, &change, DEED)
    }

    /// Asks the owner to move a pool to its partner.
    pub fn switchover(
        &self,
        at: ControllerId,
        pool: PoolId,
    ) -> std::result::Result<heartbeat::Accepted, RpcError> {
        self.call(
            at,
            heartbeat::SWITCHOVER,
            &heartbeat::Switchover { pool, dry_run: false },
        )
    }

    // States to wait for.

    /// Waits until both controllers are members of one open epoch and say so.
    pub fn wait_joined(&self, bound: Duration) -> Result<()> {
        wait_for("both controllers are joined", bound, || {
            for at in ControllerId::ALL {
                let status = self.heartbeat(at)?;
                let epoch = status
                    .epoch
                    .ok_or_else(|| format!("{at}: no epoch yet, {}", status.state))?;
                let both = epoch.members.len() == 2 && epoch.open;
                crate::wait::that(both, || format!("{at}: epoch {:?}, {}", epoch, status.state))?;
                crate::wait::that(status.config_lock.is_none(), || {
                    format!("{at}: {:?}", status.config_lock)
                })?;
            }
            Ok(())
        })
    }

    /// Waits until a controller says that it serves a pool.
    pub fn wait_owner(&self, at: ControllerId, pool: PoolId, bound: Duration) -> Result<()> {
        wait_for(&format!("{at} serves pool {pool}"), bound, || {
            self.serves(at, pool)
        })
    }

    /// Whether a controller says that it serves a pool; otherwise what it says.
    pub fn serves(&self, at: ControllerId, pool: PoolId) -> std::result::Result<(), String> {
        let status = self.heartbeat(at)?;
        let Some(found) = status.pools.iter().find(|known| known.pool == pool) else {
            return Err(format!("{at}: does not know the pool yet"));
        };
        crate::wait::that(found.owner == Some(at) && found.state == "serving", || {
            format!(
                "{at}: {} (owner {:?}), controller {}",
                found.state, found.owner, status.state
            )
        })
    }

    /// Whether a controller's processes run (power on, not hung).
    pub fn is_running(&self, controller: ControllerId) -> Result<bool> {
        let status = self.enclosure_status()?;
        let state = status.controllers.get(&controller);
        Ok(state.is_some_and(|state| state.power == chassis::PowerState::On && !state.hung))
    }

    /// A command that runs `program` inside the network of the hosts.
    pub fn in_host_network(&self, program: &Path) -> Command {
        let mut command = Command::new(self.programs.chassis());
        command
            .arg("exec")
            .arg("--dir")
            .arg(&self.directory)
            .arg("--")
            .arg(program);
        command
    }

    /// Ends everything in order and says what would not end.
    pub fn stop(&self) -> Result<()> {
        let asked: Result<chassis::Done> = self.panel::<(), _>(chassis::SHUTDOWN, None);
        let ended = wait_for("the enclosure ends", DEED, || {
            match self.enclosure.lock().expect("no panic under the lock").try_wait() {
                Ok(Some(_)) => Ok(()),
                Ok(None) => Err("it still runs".into()),
                Err(err) => Err(err.to_string()),
            }
        });
        if ended.is_err() {
            // Its processes die with it.
            let mut enclosure = self.enclosure.lock().expect("no panic under the lock");
            let _ = enclosure.kill();
            let _ = enclosure.wait();
        }
        ended.and(asked.map(|_| ()))
    }
}

impl Drop for Array {
    fn drop(&mut self) {
        let running = self
            .enclosure
            .lock()
            .map(|mut child| matches!(child.try_wait(), Ok(None)));
        if running.unwrap_or(true) {
            let _ = self.stop();
        }
    }
}

/// The last lines of a text, on one line.
pub fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(count)..].join(" | ")
}
