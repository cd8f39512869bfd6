//! A whole array as a test holds it: the enclosure's front panel in one hand, both controllers'
//! routers in the other.
//!
//! The enclosure is a process of its own (`pollux-chassis`), started on a directory and ended with
//! it. Everything asked of the array goes the way an operator's command goes: through a
//! controller's router, under an action that can be traced. Everything done *to* it goes through
//! the front panel.
//!
//! Calls block; each has a bound.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use pollux_api::action::ActionId;
use pollux_api::error::RpcError;
use pollux_api::id::{ControllerId, DiskIndex, PoolId};
use pollux_api::{address, chassis, config, heartbeat, router, target};
use pollux_chassis::Enclosure;
use pollux_platform::lines::CallError;
use pollux_runtime::{Client, Ctx};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::runtime::Runtime;

pub use pollux_chassis::Options;

use crate::error::{Error, Result};
use crate::programs::Programs;
use crate::wait::wait_for;

/// How long any single answer may take.
const ANSWER: Duration = Duration::from_secs(5);
/// How long a change of the configuration may take, with the labelling of disks that it may cause.
const DEED: Duration = Duration::from_secs(30);

/// A running array. Dropping it ends it.
pub struct Array {
    /// Gone once the array has been ended.
    enclosure: Option<Enclosure>,
    runtime: Runtime,
    directory: PathBuf,
    programs: Programs,
}

impl Array {
    /// Starts the enclosure; it starts the controllers.
    pub fn start(programs: &Programs, options: &Options) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .map_err(|err| Error::step("start a runtime", err))?;
        let enclosure = runtime
            .block_on(Enclosure::start(options.clone()))
            .map_err(|err| Error::step("start the enclosure", err))?;
        let directory = enclosure.dir().to_owned();
        let array = Array {
            enclosure: Some(enclosure),
            runtime,
            directory,
            programs: programs.clone(),
        };
        wait_for("every daemon is ready", Duration::from_secs(60), || {
            array.daemons_ready()
        })?;
        Ok(array)
    }

    /// Every daemon of every running controller has said that it is ready.
    pub fn daemons_ready(&self) -> std::result::Result<(), String> {
        self.runtime.block_on(self.enclosure().wait_ready(Duration::ZERO))
    }

    fn enclosure(&self) -> &Enclosure {
        self.enclosure.as_ref().expect("taken only when the array ends")
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

    /// Presses a button and waits until what it does has happened.
    fn press<'a, T, F>(
        &'a self,
        what: &str,
        button: impl FnOnce(&'a pollux_chassis::Client) -> F,
    ) -> Result<T>
    where
        F: Future<Output = std::result::Result<T, CallError>>,
    {
        self.runtime
            .block_on(button(self.enclosure().client()))
            .map_err(|err| Error::step(format!("front panel, {what}"), err))
    }

    /// What the enclosure knows of itself.
    pub fn enclosure_status(&self) -> Result<chassis::Status> {
        self.press("status", |panel| panel.status())
    }

    /// The power button.
    pub fn power(&self, controller: ControllerId, action: chassis::PowerAction) -> Result<chassis::Done> {
        self.press("power", |panel| panel.power(controller, action))
    }

    /// Stops every process of a controller, or lets them go on.
    pub fn hang(&self, controller: ControllerId, hung: bool) -> Result<chassis::Done> {
        self.press("hang", |panel| panel.hang(controller, hung))
    }

    /// An orderly restart.
    pub fn reboot(&self, controller: ControllerId) -> Result<chassis::Done> {
        self.press("reboot", |panel| {
            panel.reboot(controller, Duration::from_secs(10))
        })
    }

    /// A signal to one daemon.
    pub fn daemon(
        &self,
        controller: ControllerId,
        daemon: &str,
        action: chassis::DaemonAction,
    ) -> Result<chassis::Done> {
        self.press("daemon", |panel| panel.daemon(controller, daemon, action))
    }

    /// One leg of the interconnect.
    pub fn leg(&self, leg: u8, cable: chassis::Cable) -> Result<chassis::Done> {
        self.press("leg", |panel| panel.leg(leg, cable))
    }

    /// Both legs.
    pub fn interconnect(&self, cable: chassis::Cable) -> Result<chassis::Done> {
        self.press("interconnect", |panel| panel.interconnect(cable))
    }

    /// A controller's path to one disk, or to the whole shelf.
    pub fn disk_path(
        &self,
        controller: ControllerId,
        disk: Option<DiskIndex>,
        connected: bool,
    ) -> Result<chassis::Done> {
        self.press("disk path", |panel| panel.disk_path(controller, disk, connected))
    }

    /// Makes a disk misbehave, or behave.
    pub fn disk_fault(
        &self,
        disk: DiskIndex,
        port: Option<ControllerId>,
        fault: chassis::DiskFault,
    ) -> Result<chassis::Done> {
        self.press("disk fault", |panel| panel.disk_fault(disk, port, fault))
    }

    /// The shelf's power.
    pub fn shelf_power(&self, action: chassis::PowerAction) -> Result<chassis::Done> {
        self.press("shelf power", |panel| panel.shelf_power(action))
    }

    /// Whether a controller can switch its partner off.
    pub fn bmc(&self, controller: ControllerId, reachable: bool) -> Result<chassis::Done> {
        self.press("power control", |panel| panel.bmc(controller, reachable))
    }

    /// Whether a controller's watchdog acts.
    pub fn watchdog(&self, controller: ControllerId, enabled: bool) -> Result<chassis::Done> {
        self.press("watchdog", |panel| panel.watchdog(controller, enabled))
    }

    /// Everything but the power as new.
    pub fn heal(&self) -> Result<chassis::Done> {
        self.press("heal", |panel| panel.heal())
    }

    /// The enclosure's journal.
    pub fn journal(&self) -> Result<Vec<chassis::Event>> {
        self.press("events", |panel| panel.events(0))
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

    /// Asks for every pool that is away from home to go home.
    pub fn giveback(&self, at: ControllerId) -> std::result::Result<heartbeat::Accepted, RpcError> {
        self.call(at, heartbeat::GIVEBACK, &heartbeat::Giveback::default())
    }

    /// Asks for a planned move to be aborted.
    pub fn abort(
        &self,
        at: ControllerId,
        pool: PoolId,
    ) -> std::result::Result<heartbeat::Accepted, RpcError> {
        self.call(
            at,
            heartbeat::ABORT,
            &heartbeat::Switchover { pool, dry_run: false },
        )
    }

    // States to wait for.

    /// Waits until both controllers are members of one open epoch, say so, and take changes.
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

    /// Waits until a controller answers for its partner's portal, or until it does so no longer.
    pub fn wait_stand_in(&self, at: ControllerId, is: bool, bound: Duration) -> Result<()> {
        wait_for(&format!("{at} stands in for its partner: {is}"), bound, || {
            let status = self.addresses(at)?;
            let found = status.addresses.iter().any(|address| address.pool.is_none());
            crate::wait::that(found == is, || format!("{at}: {:?}", status.addresses))
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
    pub fn stop(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        let Some(enclosure) = self.enclosure.take() else {
            return Ok(());
        };
        self.runtime
            .block_on(enclosure.end())
            .map_err(|err| Error::step("end the enclosure", err))
    }
}

impl Drop for Array {
    fn drop(&mut self) {
        // Waits for the end, so that the directory can be removed; a failure was nobody's question.
        let _ = self.end();
    }
}

/// The last lines of a text, on one line.
pub fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(count)..].join(" | ")
}
