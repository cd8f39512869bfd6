//! The enclosure itself: both controllers with their power buttons, the cables, the shelf.
//!
//! Everything that can be done to the array from outside is a method here; the front panel's socket, the controllers'
//! power controls and the watchdogs press the same buttons.
//!
//! Invariants:
//! * a controller that is reported off has no process, no cable and no path to a disk; cables and paths go first, so
//!   that nothing of it takes effect while its processes are being killed;
//! * off and on of one controller exclude each other (`Machine::gate`); a power cut waits for nobody's readiness;
//! * a fault that was set stays over power cycles until it is healed.

use crate::{
    bmc, control,
    journal::Journal,
    keeper::{Keeper, Program},
    lines,
    network::Network,
    options::{Options, control_socket},
    shelf::{Shelf, ShelfError},
    watchdog::Dog,
};
use pollux_api::{
    chassis::{self, Cable, Controller, DaemonAction, DiskFault, Done, Leg, PowerAction, PowerState, Status},
    error::{Code, RpcError},
    id::{ArrayId, ControllerId, DiskIndex},
};
use pollux_platform::{
    clock::monotonic_ns,
    netlink::NetlinkError,
    netns::{GroupSignal, NetNs, Spawner},
    signal::Shutdown,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{
    net::UnixListener,
    sync::{Mutex as AsyncMutex, watch},
    task::JoinSet,
    time::Instant,
};

/// How long the other daemons wait for the router of their controller. They can do without; it only saves them retries.
const ROUTER_WAIT: Duration = Duration::from_secs(5);

/// Why the enclosure does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A program is missing.
    #[error("{} is not there: build it (cargo build --package {package}), or say with --programs where it is", path.display())]
    NoProgram {
        /// Where it was looked for.
        path: PathBuf,
        /// The package that makes it.
        package: String,
    },
    /// The shelf is damaged or another's.
    #[error(transparent)]
    Shelf(#[from] ShelfError),
    /// The network could not be built.
    #[error("network: {0}")]
    Network(#[from] NetlinkError),
    /// A file or socket.
    #[error("{}: {source}", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A controller did not start.
    #[error("{0}")]
    Boot(RpcError),
    /// The new quorum disks could not be formatted.
    #[error("the quorum area cannot be formatted: {0}; remove the directory and start again")]
    Format(String),
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> StartError + use<> {
    let path = path.to_owned();
    move |source| StartError::Io { path, source }
}

/// The installer's last step on a shelf that was just made: an empty quorum area, written through a's ports before
/// either controller has power. A shelf that ran before is never formatted, however blank it looks.
async fn format_quorum(options: &Options, shelf: &Shelf) -> Result<(), StartError> {
    let controller = ControllerId::A;
    let program = options.program("quorum-format");
    let file = options
        .controller_dir(controller)
        .join(pollux_runtime::config::FILE);
    shelf.set_path(controller, None, true)?;
    let output = tokio::process::Command::new(&program)
        .arg("--config")
        .arg(&file)
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .map_err(at(&program));
    shelf.set_path(controller, None, false)?;
    let output = output?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(StartError::Format(
        said.lines().last().unwrap_or("no reason given").to_owned(),
    ))
}

/// The enclosure; clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Panel(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    options: Options,
    array: ArrayId,
    journal: Journal,
    spawner: Spawner,
    network: AsyncMutex<Network>,
    /// The network's state for those who must not wait for its changes.
    cables: Mutex<Cables>,
    shelf: Arc<Shelf>,
    shelf_power: AsyncMutex<bool>,
    machines: [Machine; 2],
    shutdown: Shutdown,
}

#[derive(Clone, Copy, Debug)]
struct Cables {
    legs: [Leg; 2],
    active: usize,
    host_ports: [bool; 2],
}

/// One controller.
#[derive(Debug)]
struct Machine {
    /// Its daemons, by name. Held while its power changes.
    gate: AsyncMutex<Vec<(String, Keeper)>>,
    state: Mutex<State>,
    watchdog: watch::Sender<Dog<Instant>>,
}

#[derive(Debug)]
struct State {
    power: PowerState,
    boots: u64,
    hung: bool,
    bmc_reachable: bool,
    fired: u64,
    /// Disks whose path was pulled, whatever its power.
    cut: BTreeSet<DiskIndex>,
    views: BTreeMap<String, watch::Receiver<chassis::Daemon>>,
}

impl Machine {
    fn new(options: &Options) -> Self {
        Self {
            gate: AsyncMutex::default(),
            state: Mutex::new(State {
                power: PowerState::Off,
                boots: 0,
                hung: false,
                bmc_reachable: !options.no_power_fencing,
                fired: 0,
                cut: BTreeSet::new(),
                views: BTreeMap::new(),
            }),
            watchdog: watch::Sender::new(Dog::new(!options.no_watchdog)),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Outcome<T = Done> = Result<T, RpcError>;

/// Makes the answer of a button that has been pressed.
fn done(began_ns: u64, changed: bool) -> Done {
    Done {
        began_ns,
        done_ns: monotonic_ns(),
        changed,
    }
}

fn failed(place: impl std::fmt::Display, error: impl std::fmt::Display) -> RpcError {
    RpcError::new(Code::Failed, place.to_string(), error.to_string())
}

fn refuse(place: impl std::fmt::Display, what: impl Into<String>, remedy: impl Into<String>) -> RpcError {
    RpcError::new(Code::Conflict, place.to_string(), what).remedy(remedy)
}

impl Panel {
    /// Fits the enclosure out and starts the controllers. The calling process must be in a network of its own, and in
    /// a tokio runtime. Serves until `tasks` is dropped.
    pub(crate) async fn start(
        options: Options,
        array: ArrayId,
        shelf: Shelf,
        unformatted: &Path,
        shutdown: Shutdown,
        tasks: &mut JoinSet<()>,
    ) -> Result<Self, StartError> {
        let dir = options.dir.clone();
        let journal = Journal::create(&dir).map_err(at(&dir))?;
        journal.record(None, "start", None, format!("seed {}", options.seed));
        let quorum: Vec<_> = shelf
            .disks()
            .iter()
            .filter(|disk| disk.quorum)
            .map(|disk| disk.index)
            .collect();
        for controller in ControllerId::ALL {
            let config = options.controller_config(controller, array, quorum.clone());
            for path in [&config.paths.var, &config.paths.log] {
                std::fs::create_dir_all(path).map_err(at(path))?;
            }
            let file = options
                .controller_dir(controller)
                .join(pollux_runtime::config::FILE);
            pollux_platform::file::replace(&file, config.render().as_bytes(), 0o644).map_err(at(&file))?;
            shelf.set_path(controller, None, false)?;
            shelf.serve(controller, &config.paths.port)?;
        }
        if unformatted.exists() && options.daemons.iter().any(|name| name == "heartbeatd") {
            format_quorum(&options, &shelf).await?;
            // Durably, before anything is in the area: a mark that came back would keep the array from starting.
            std::fs::remove_file(unformatted)
                .and_then(|()| pollux_platform::file::sync_directory(&dir))
                .map_err(at(unformatted))?;
        }
        let network = Network::build(journal.clone()).await?;
        let machines = [Machine::new(&options), Machine::new(&options)];
        let cables = Mutex::new(Cables {
            legs: [Leg::default(); 2],
            active: 0,
            host_ports: [true; 2],
        });
        let panel = Self(Arc::new(Inner {
            array,
            journal,
            spawner: Spawner::start().map_err(at(&dir))?,
            network: AsyncMutex::new(network),
            cables,
            shelf: Arc::new(shelf),
            shelf_power: AsyncMutex::new(true),
            machines,
            shutdown,
            options,
        }));
        for controller in ControllerId::ALL {
            let path = panel.bmc_socket(controller);
            let listener = listen(&path).map_err(at(&path))?;
            tasks.spawn(lines::serve(
                listener,
                Arc::new(bmc::Bmc::new(panel.clone(), controller)),
            ));
            tasks.spawn(panel.clone().watch(controller));
        }
        if !panel.0.options.powered_off {
            let (a, b) = tokio::join!(panel.power_on(ControllerId::A), panel.power_on(ControllerId::B));
            if let Err(error) = a.and(b) {
                panel.end().await;
                return Err(StartError::Boot(error));
            }
        }
        // Last: who can open this socket finds everything in place.
        let path = control_socket(&panel.0.options.dir);
        let listener = listen(&path).map_err(at(&path))?;
        tasks.spawn(lines::serve(
            listener,
            Arc::new(control::Control::new(panel.clone())),
        ));
        Ok(panel)
    }

    /// Cuts every power and removes the sockets.
    pub(crate) async fn end(&self) {
        let _ = std::fs::remove_file(control_socket(&self.0.options.dir));
        let (a, b) = tokio::join!(
            self.power_off(ControllerId::A, "end"),
            self.power_off(ControllerId::B, "end")
        );
        for outcome in [a, b] {
            if let Err(error) = outcome {
                tracing::error!(%error, "cannot cut the power");
            }
        }
        for controller in ControllerId::ALL {
            let _ = std::fs::remove_file(self.bmc_socket(controller));
            let own = self.0.options.controller_dir(controller);
            let _ = std::fs::remove_dir_all(own.join("port"));
            let _ = std::fs::remove_dir_all(own.join("run"));
        }
        self.0.journal.record(None, "end", None, "");
    }

    fn bmc_socket(&self, controller: ControllerId) -> PathBuf {
        self.0.options.controller_dir(controller).join("bmc.sock")
    }

    fn machine(&self, controller: ControllerId) -> &Machine {
        &self.0.machines[controller.index()]
    }

    /// What happened.
    pub(crate) fn journal(&self) -> &Journal {
        &self.0.journal
    }

    /// The request to end.
    pub(crate) fn shutdown(&self) -> &Shutdown {
        &self.0.shutdown
    }

    // Power.

    /// The power button.
    pub(crate) async fn power(&self, controller: ControllerId, action: PowerAction, why: &str) -> Outcome {
        match action {
            PowerAction::On => self.power_on(controller).await,
            PowerAction::Off => self.power_off(controller, why).await,
            PowerAction::Reset => {
                let off = self.power_off(controller, why).await?;
                let on = self.power_on(controller).await?;
                Ok(Done {
                    began_ns: off.began_ns,
                    ..on
                })
            }
        }
    }

    async fn power_off(&self, controller: ControllerId, why: &str) -> Outcome {
        let machine = self.machine(controller);
        let began = monotonic_ns();
        let mut gate = machine.gate.lock().await;
        if machine.state().power == PowerState::Off {
            return Ok(done(began, false));
        }
        machine.state().power = PowerState::Changing;
        self.0
            .journal
            .record(Some(controller), "power_off_begin", None, why);
        // Disks and cables first. A cable that cannot be pulled does not keep the power on.
        let pulled = self.0.shelf.set_path(controller, None, false);
        {
            let mut network = self.0.network.lock().await;
            if let Err(error) = network.unplug(controller).await {
                tracing::error!(%error, %controller, "cannot pull the cables");
            }
            self.publish_cables(&network);
        }
        self.settle_bond_later();
        // All killed before the first is waited for.
        let killed: Vec<_> = gate.drain(..).map(|(_, keeper)| keeper.off()).collect();
        for process in killed {
            process.await;
        }
        machine.watchdog.send_modify(Dog::disarm);
        {
            let mut state = machine.state();
            state.views.clear();
            state.hung = false;
            state.power = PowerState::Off;
        }
        self.0.journal.record(Some(controller), "power_off", None, why);
        pulled.map_err(|error| failed(controller, error))?;
        Ok(done(began, true))
    }

    async fn power_on(&self, controller: ControllerId) -> Outcome {
        let machine = self.machine(controller);
        let began = monotonic_ns();
        let (boot, router) = {
            let mut gate = machine.gate.lock().await;
            if machine.state().power != PowerState::Off {
                return Ok(done(began, false));
            }
            if self.0.shutdown.is_requested() {
                return Err(refuse(controller, "the enclosure is ending", "start it again"));
            }
            machine.state().power = PowerState::Changing;
            match self.boot(controller, &mut gate).await {
                Ok(started) => started,
                Err(error) => {
                    // Nothing half started stays.
                    drop(gate);
                    let _ = self.power_off(controller, "it could not be started").await;
                    return Err(error);
                }
            }
        };
        if let Some(mut router) = router {
            // Ready, or dead already, or slow: the others start in any case.
            let _ = tokio::time::timeout(
                ROUTER_WAIT,
                router.wait_for(|view| view.ready || view.pid.is_none()),
            )
            .await;
        }
        let mut gate = machine.gate.lock().await;
        if machine.state().power != PowerState::On || machine.state().boots != boot {
            return Err(refuse(
                controller,
                "its power was cut while it was being started",
                "press the button again",
            ));
        }
        let network = self.namespace(controller).await?;
        for name in self.0.options.daemons.iter().skip(1) {
            let started = self.start_daemon(controller, name, &network, &mut gate).await;
            if let Err(error) = started {
                drop(gate);
                let _ = self.power_off(controller, "it could not be started").await;
                return Err(error);
            }
        }
        if machine.state().hung {
            for order in gate
                .iter()
                .map(|(_, keeper)| keeper.hang(true))
                .collect::<Vec<_>>()
            {
                order.await.map_err(|error| failed(controller, error))?;
            }
        }
        Ok(done(began, true))
    }

    /// From off to the first daemon. Answers the number of this start and the view of the first daemon.
    async fn boot(
        &self,
        controller: ControllerId,
        gate: &mut Vec<(String, Keeper)>,
    ) -> Outcome<(u64, Option<watch::Receiver<chassis::Daemon>>)> {
        let machine = self.machine(controller);
        let run = self.0.options.controller_dir(controller).join("run");
        let wiped = match std::fs::remove_dir_all(&run) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => std::fs::create_dir_all(run.join("notify")),
        };
        wiped.map_err(|error| failed(run.display(), error))?;
        {
            let mut network = self.0.network.lock().await;
            let plugged = network.plug(controller).await;
            self.publish_cables(&network);
            plugged.map_err(|error| failed(controller, error))?;
        }
        self.settle_bond_later();
        let boots = {
            let mut state = machine.state();
            state.power = PowerState::On;
            state.boots += 1;
            // Daemons that are still to be started are listed, so that nobody takes a boot for finished.
            let waiting = |name: &String| (name.clone(), watch::channel(chassis::Daemon::default()).1);
            state.views = self.0.options.daemons.iter().map(waiting).collect();
            state.boots
        };
        self.plug_disks(controller)?;
        self.0
            .journal
            .record(Some(controller), "power_on", None, format!("start {boots}"));
        let network = self.namespace(controller).await?;
        let router = match self.0.options.daemons.first() {
            Some(name) => Some(self.start_daemon(controller, name, &network, gate).await?),
            None => None,
        };
        Ok((boots, router))
    }

    async fn namespace(&self, controller: ControllerId) -> Outcome<NetNs> {
        let network = self.0.network.lock().await;
        let namespace = network.namespace(controller).map(NetNs::try_clone);
        namespace
            .ok_or_else(|| failed(controller, "it has no network"))?
            .map_err(|error| failed(controller, error))
    }

    async fn start_daemon(
        &self,
        controller: ControllerId,
        name: &str,
        network: &NetNs,
        gate: &mut Vec<(String, Keeper)>,
    ) -> Outcome<watch::Receiver<chassis::Daemon>> {
        let own = self.0.options.controller_dir(controller);
        let place = format!("{controller}/{name}");
        let program = Program {
            controller,
            name: name.to_owned(),
            path: self.0.options.program(name),
            arguments: vec!["--config".into(), own.join(pollux_runtime::config::FILE).into()],
            log: own.join("log").join(format!("{name}.log")),
            notify: own.join("run/notify").join(name),
            seed: self.0.options.seed.wrapping_add(controller.index() as u64),
            network: network.try_clone().map_err(|error| failed(&place, error))?,
        };
        let started = Keeper::start(program, self.0.spawner.clone(), self.0.journal.clone()).await;
        let keeper = started.map_err(|error| failed(&place, format!("cannot be started: {error}")))?;
        let view = keeper.subscribe();
        self.machine(controller)
            .state()
            .views
            .insert(name.to_owned(), view.clone());
        gate.push((name.to_owned(), keeper));
        Ok(view)
    }

    /// An orderly restart: daemons are asked to end, the router last, then the power is cycled.
    pub(crate) async fn reboot(&self, controller: ControllerId, grace: Duration) -> Outcome {
        let began = monotonic_ns();
        {
            let gate = self.machine(controller).gate.lock().await;
            if gate.is_empty() {
                return Err(refuse(controller, "it has no power", "chassis power on"));
            }
            let (router, others) = gate.split_at(1);
            for group in [others, router] {
                let asked: Vec<_> = group.iter().map(|(_, keeper)| keeper.retire()).collect();
                for order in asked {
                    order.await.map_err(|error| failed(controller, error))?;
                }
                let ended = async {
                    for (_, keeper) in group {
                        // The sender lives as long as the keeper.
                        let _ = keeper.subscribe().wait_for(|view| view.pid.is_none()).await;
                    }
                };
                let _ = tokio::time::timeout(grace, ended).await;
            }
        }
        self.power(controller, PowerAction::Reset, "reboot")
            .await
            .map(|on| Done {
                began_ns: began,
                ..on
            })
    }

    /// Stops every process of a controller, or lets them go on.
    pub(crate) async fn hang(&self, controller: ControllerId, hung: bool) -> Outcome {
        let machine = self.machine(controller);
        let began = monotonic_ns();
        let gate = machine.gate.lock().await;
        if machine.state().power != PowerState::On {
            return Err(refuse(controller, "it has no power", "chassis power on"));
        }
        let changed = std::mem::replace(&mut machine.state().hung, hung) != hung;
        // All told before the first is waited for.
        let orders: Vec<_> = gate.iter().map(|(_, keeper)| keeper.hang(hung)).collect();
        for order in orders {
            order.await.map_err(|error| failed(controller, error))?;
        }
        self.0
            .journal
            .record(Some(controller), if hung { "hang" } else { "resume" }, None, "");
        Ok(done(began, changed))
    }

    /// Does something to one daemon.
    pub(crate) async fn daemon(&self, controller: ControllerId, name: &str, action: DaemonAction) -> Outcome {
        let began = monotonic_ns();
        let gate = self.machine(controller).gate.lock().await;
        let place = format!("{controller}/{name}");
        let Some((_, keeper)) = gate.iter().find(|(own, _)| own == name) else {
            let known: Vec<_> = gate.iter().map(|(own, _)| own.as_str()).collect();
            let remedy = match known.is_empty() {
                true => "it has no power: chassis power on".to_owned(),
                false => format!("there are {}", known.join(", ")),
            };
            return Err(RpcError::new(Code::NotFound, place, "no such daemon runs").remedy(remedy));
        };
        let (signal, word) = match action {
            DaemonAction::Kill => (GroupSignal::Kill, "SIGKILL"),
            DaemonAction::Restart => (GroupSignal::Terminate, "SIGTERM"),
            DaemonAction::Stop => (GroupSignal::Stop, "SIGSTOP"),
            DaemonAction::Continue => (GroupSignal::Continue, "SIGCONT"),
        };
        let changed = keeper
            .signal(signal)
            .await
            .map_err(|error| failed(&place, error))?;
        self.0
            .journal
            .record(Some(controller), "daemon_signal", name.to_owned(), word);
        Ok(done(began, changed))
    }

    // Cables.

    fn publish_cables(&self, network: &Network) {
        let cabling = network.cabling();
        let legs = [0, 1].map(|leg| Leg {
            cable: cabling.legs[leg],
            carrier: cabling.carrier(leg),
        });
        *self.0.cables.lock().unwrap_or_else(PoisonError::into_inner) = Cables {
            legs,
            active: cabling.active,
            host_ports: cabling.host_ports,
        };
    }

    /// After the failover time, moves the bond if it still wants to.
    fn settle_bond_later(&self) {
        let panel = self.clone();
        tokio::spawn(async move {
            if !panel.0.network.lock().await.bond_is_unsettled() {
                return;
            }
            tokio::time::sleep(panel.0.options.bond_failover()).await;
            let mut network = panel.0.network.lock().await;
            if let Err(error) = network.settle_bond().await {
                tracing::error!(%error, "cannot move the bond");
            }
            panel.publish_cables(&network);
        });
    }

    /// One leg of the interconnect.
    pub(crate) async fn leg(&self, leg: u8, cable: Cable) -> Outcome {
        let began = monotonic_ns();
        if leg > 1 {
            let error = RpcError::new(Code::InvalidParams, "leg", format!("there is no leg {leg}"));
            return Err(error.remedy("the interconnect has legs 0 and 1"));
        }
        let mut network = self.0.network.lock().await;
        let outcome = network.set_leg(leg.into(), cable).await;
        self.publish_cables(&network);
        let changed = outcome.map_err(|error| failed(format!("leg {leg}"), error))?;
        self.0
            .journal
            .record(None, "leg", leg.to_string(), format!("{cable:?}"));
        drop(network);
        self.settle_bond_later();
        Ok(done(began, changed))
    }

    /// The front-end cable of a controller.
    pub(crate) async fn host_port(&self, controller: ControllerId, connected: bool) -> Outcome {
        let began = monotonic_ns();
        let mut network = self.0.network.lock().await;
        let outcome = network.set_host_port(controller, connected).await;
        self.publish_cables(&network);
        let changed = outcome.map_err(|error| failed(controller, error))?;
        self.0.journal.record(
            Some(controller),
            "host_port",
            None,
            if connected { "connected" } else { "cut" },
        );
        Ok(done(began, changed))
    }

    // Shelf.

    /// Brings the paths of a controller to what its power and the pulled cables say.
    fn plug_disks(&self, controller: ControllerId) -> Outcome<bool> {
        // Held over the changes: the power must not go in between and find a path plugged behind it.
        let state = self.machine(controller).state();
        let mut changed = false;
        for disk in self.0.shelf.disks() {
            let connected = state.power == PowerState::On && !state.cut.contains(&disk.index);
            let outcome = self.0.shelf.set_path(controller, Some(disk.index), connected);
            changed |= outcome.map_err(|error| failed(controller, error))?;
        }
        Ok(changed)
    }

    /// The path of a controller to one disk or to all.
    pub(crate) fn disk_path(
        &self,
        controller: ControllerId,
        disk: Option<DiskIndex>,
        connected: bool,
    ) -> Outcome {
        let began = monotonic_ns();
        let disks: Vec<DiskIndex> = self.0.shelf.disks().iter().map(|disk| disk.index).collect();
        let chosen = match disk {
            None => disks,
            Some(disk) if disks.contains(&disk) => vec![disk],
            Some(disk) => return Err(no_disk(disk, &disks)),
        };
        let mut changed = false;
        {
            let mut state = self.machine(controller).state();
            for disk in chosen {
                changed |= match connected {
                    true => state.cut.remove(&disk),
                    false => state.cut.insert(disk),
                };
            }
        }
        self.plug_disks(controller)?;
        let object = disk.map_or("all".to_owned(), |disk| disk.to_string());
        self.0.journal.record(
            Some(controller),
            "disk_path",
            object,
            if connected { "connected" } else { "cut" },
        );
        Ok(done(began, changed))
    }

    /// Makes a disk misbehave or behave.
    pub(crate) fn disk_fault(
        &self,
        disk: DiskIndex,
        port: Option<ControllerId>,
        fault: DiskFault,
    ) -> Outcome {
        let began = monotonic_ns();
        let changed = self
            .0
            .shelf
            .set_fault(disk, port, fault)
            .map_err(|error| RpcError::new(Code::NotFound, disk.to_string(), error.to_string()))?;
        self.0
            .journal
            .record(port, "disk_fault", disk.to_string(), format!("{fault:?}"));
        Ok(done(began, changed))
    }

    /// The shelf's power.
    pub(crate) async fn shelf_power(&self, action: PowerAction) -> Outcome {
        let began = monotonic_ns();
        let mut powered = self.0.shelf_power.lock().await;
        let steps: &[bool] = match action {
            PowerAction::Off => &[false],
            PowerAction::On => &[true],
            PowerAction::Reset => &[false, true],
        };
        let mut changed = false;
        for &on in steps {
            let shelf = self.0.shelf.clone();
            let outcome = tokio::task::spawn_blocking(move || shelf.set_power(on)).await;
            changed |= outcome
                .map_err(|error| failed("shelf", error))?
                .map_err(|error| failed("shelf", error))?;
            *powered = on;
            self.0
                .journal
                .record(None, "shelf_power", None, if on { "on" } else { "off" });
        }
        Ok(done(began, changed))
    }

    // Power control and watchdog.

    /// May a controller reach the power control of its partner?
    pub(crate) fn set_bmc(&self, controller: ControllerId, reachable: bool) -> Outcome {
        let began = monotonic_ns();
        let changed =
            std::mem::replace(&mut self.machine(controller).state().bmc_reachable, reachable) != reachable;
        self.0.journal.record(
            Some(controller),
            "bmc",
            None,
            if reachable { "reachable" } else { "unreachable" },
        );
        Ok(done(began, changed))
    }

    /// A controller can reach the power control of its partner.
    pub(crate) fn bmc_reachable(&self, controller: ControllerId) -> bool {
        self.machine(controller).state().bmc_reachable
    }

    /// Power and number of starts of a controller.
    pub(crate) fn power_state(&self, controller: ControllerId) -> (PowerState, u64) {
        let state = self.machine(controller).state();
        (state.power, state.boots)
    }

    /// Does the watchdog of a controller act?
    pub(crate) fn set_watchdog(&self, controller: ControllerId, enabled: bool) -> Outcome {
        let began = monotonic_ns();
        let changed = self
            .machine(controller)
            .watchdog
            .send_if_modified(|dog| std::mem::replace(&mut dog.enabled, enabled) != enabled);
        self.0.journal.record(
            Some(controller),
            "watchdog",
            None,
            if enabled { "enabled" } else { "disabled" },
        );
        Ok(done(began, changed))
    }

    /// Arms the watchdog of a controller.
    pub(crate) fn arm(&self, controller: ControllerId, timeout: Duration) {
        let mut before = None;
        self.machine(controller).watchdog.send_modify(|dog| {
            before = dog.timeout();
            dog.arm(Instant::now(), timeout);
        });
        if before != Some(timeout) {
            self.0.journal.record(
                Some(controller),
                "watchdog_armed",
                None,
                format!("{} ms", timeout.as_millis()),
            );
        }
    }

    /// Pets it. False: it is not armed.
    pub(crate) fn pet(&self, controller: ControllerId) -> bool {
        let mut armed = false;
        self.machine(controller)
            .watchdog
            .send_modify(|dog| armed = dog.pet(Instant::now()));
        armed
    }

    /// Disarms it.
    pub(crate) fn disarm(&self, controller: ControllerId) {
        self.machine(controller).watchdog.send_modify(Dog::disarm);
        self.0
            .journal
            .record(Some(controller), "watchdog_armed", None, "disarmed");
    }

    /// Resets the controller when its watchdog runs out. Runs for ever.
    async fn watch(self, controller: ControllerId) {
        let machine = self.machine(controller);
        let mut changes = machine.watchdog.subscribe();
        loop {
            let deadline = changes.borrow_and_update().deadline();
            let pause = async {
                match deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // The sender lives in the machine, which this holds.
                _ = changes.changed() => continue,
                () = pause => {}
            }
            // A pet that came before now counts, even if this task has not seen it.
            let (mut out, mut enabled) = (false, false);
            machine.watchdog.send_if_modified(|dog| {
                (out, enabled) = (dog.runs_out(Instant::now()), dog.enabled);
                out
            });
            if !out {
                continue;
            }
            if !enabled {
                self.0.journal.record(
                    Some(controller),
                    "watchdog_fired",
                    None,
                    "disabled: nothing happens",
                );
                continue;
            }
            machine.state().fired += 1;
            self.0
                .journal
                .record(Some(controller), "watchdog_fired", None, "");
            if let Err(error) = self.power(controller, PowerAction::Reset, "watchdog").await {
                tracing::error!(%error, %controller, "the watchdog cannot reset the controller");
            }
        }
    }

    // All of it.

    /// Everything but the power as new.
    pub(crate) async fn heal(&self) -> Outcome {
        let began = monotonic_ns();
        let mut changed = false;
        for leg in [0, 1] {
            changed |= self.leg(leg, Cable::Whole).await?.changed;
        }
        changed |= self.shelf_power(PowerAction::On).await?.changed;
        for disk in self.0.shelf.disks() {
            changed |= self.disk_fault(disk.index, None, DiskFault::None)?.changed;
        }
        for controller in ControllerId::ALL {
            changed |= self.host_port(controller, true).await?.changed;
            changed |= self.disk_path(controller, None, true)?.changed;
            changed |= self.set_bmc(controller, true)?.changed;
            changed |= self.set_watchdog(controller, true)?.changed;
            if self.power_state(controller).0 == PowerState::On {
                // Also wakes daemons that were stopped one by one.
                changed |= self.hang(controller, false).await?.changed;
            }
        }
        Ok(done(began, changed))
    }

    /// What is so now.
    pub(crate) async fn status(&self) -> Status {
        let cables = *self.0.cables.lock().unwrap_or_else(PoisonError::into_inner);
        let controllers = ControllerId::ALL.map(|controller| {
            let machine = self.machine(controller);
            let state = machine.state();
            let dog = *machine.watchdog.borrow();
            let view = Controller {
                power: state.power,
                boots: state.boots,
                hung: state.hung,
                host_port: cables.host_ports[controller.index()],
                bmc_reachable: state.bmc_reachable,
                watchdog: chassis::Watchdog {
                    enabled: dog.enabled,
                    armed_ms: dog.timeout().map(|timeout| timeout.as_millis() as u64),
                    fired: state.fired,
                },
                daemons: state
                    .views
                    .iter()
                    .map(|(name, view)| (name.clone(), view.borrow().clone()))
                    .collect(),
            };
            (controller, view)
        });
        Status {
            pid: std::process::id(),
            now_ns: monotonic_ns(),
            array: self.0.array,
            controllers: controllers.into(),
            legs: cables.legs,
            active_leg: cables.active as u8,
            shelf_powered: *self.0.shelf_power.lock().await,
            disks: self.0.shelf.disks(),
        }
    }
}

fn no_disk(disk: DiskIndex, disks: &[DiskIndex]) -> RpcError {
    let known: Vec<_> = disks.iter().map(DiskIndex::to_string).collect();
    RpcError::new(Code::NotFound, disk.to_string(), "no such disk")
        .remedy(format!("there are {}", known.join(", ")))
}

/// Listens at `path`, in place of whatever an earlier enclosure left there.
fn listen(path: &Path) -> io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    UnixListener::bind(path)
}
