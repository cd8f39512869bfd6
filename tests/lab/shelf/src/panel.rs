//! The buttons: what a test does to the shelf, over a Unix socket.
//!
//! JSON-RPC 2.0, one object per line. Where the enclosure's front panel has the same button it has the same name and
//! parameters ([`pollux_api::chassis`]); a button has done its work when it is answered.
//!
//! | method | parameters | what it does |
//! |---|---|---|
//! | `shelf.status` | | power, ports, disks |
//! | `chassis.disk_path` | controller, disk, connected | one disk at a port; without a disk the port's cable: all its connections end, new ones are refused |
//! | `chassis.disk_fault` | disk, port, fault | slow, failing, stuck, read-only, torn, misdirected, lost write, none |
//! | `chassis.shelf_power` | action | off: what was not flushed is lost, by a coin per page; every connection ends |
//! | `shelf.forget_reservations` | disk | registrations and reservation are gone |
//! | `chassis.heal` | | every cable plugged, every fault gone, power on |
//! | `shelf.log` | after, most | records of the log |
//! | `shelf.judge` | disks | whether a pool on these disks had one writer at a time |
//! | `chassis.shutdown` | | the end |

use crate::audit::{self, Line, Verdict};
use crate::port::Portal;
use pollux_api::chassis::{
    DISK_FAULT, DISK_PATH, Disk, Done, HEAL, PowerAction, SHELF_POWER, SHUTDOWN, SetDiskFault, SetDiskPath,
    SetShelfPower,
};
use pollux_api::error::{Code, RpcError};
use pollux_api::id::{ArrayId, ControllerId, DiskIndex};
use pollux_chassis::lines::{Handler, Reply, answer, params, unknown};
use pollux_chassis::shelf::{Shelf, ShelfError, WriteLog};
use pollux_platform::clock::monotonic_ns;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::sync::{Mutex, Notify};

const STATUS: &str = "shelf.status";
const FORGET: &str = "shelf.forget_reservations";
const LOG: &str = "shelf.log";
const JUDGE: &str = "shelf.judge";

/// Every button.
pub const METHODS: [&str; 9] = [
    STATUS,
    DISK_PATH,
    DISK_FAULT,
    SHELF_POWER,
    FORGET,
    HEAL,
    LOG,
    JUDGE,
    SHUTDOWN,
];

/// Records of one answer at most.
const MOST: usize = 10_000;

type Outcome<T = Done> = Result<T, RpcError>;

/// What the shelf says about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Process id.
    pub pid: u32,
    /// Its array.
    pub array: ArrayId,
    /// It has power.
    pub powered: bool,
    /// Both ports.
    pub ports: BTreeMap<ControllerId, PortState>,
    /// Its disks; slot n is LUN n.
    pub disks: Vec<Disk>,
}

/// One port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortState {
    /// Where it listens.
    pub address: SocketAddr,
    /// Name of its target.
    pub target: String,
    /// Its cable is plugged in.
    pub connected: bool,
    /// Who is logged in, and how often.
    pub sessions: BTreeMap<String, usize>,
}

/// Parameters of `shelf.forget_reservations`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Forget {
    disk: Option<DiskIndex>,
}

/// Parameters of `shelf.log`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct LogQuery {
    /// Only records with a higher number.
    after: u64,
    /// So many at most.
    most: usize,
}

impl Default for LogQuery {
    fn default() -> Self {
        LogQuery { after: 0, most: MOST }
    }
}

/// Parameters of `shelf.judge`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Judge {
    disks: Vec<u16>,
}

/// What was done to the cables and the power.
#[derive(Debug)]
struct Hands {
    powered: bool,
    /// Pulled ports.
    cut: BTreeSet<ControllerId>,
    /// Single disks that a port does not reach.
    cut_disks: BTreeSet<(ControllerId, DiskIndex)>,
}

/// The buttons of one shelf.
#[derive(Debug)]
pub struct Panel {
    shelf: Arc<Shelf>,
    portals: Arc<[Portal; 2]>,
    hands: Mutex<Hands>,
    ends: Notify,
}

impl Panel {
    pub(crate) fn new(shelf: Arc<Shelf>, portals: Arc<[Portal; 2]>) -> Self {
        let hands = Hands {
            powered: true,
            cut: BTreeSet::new(),
            cut_disks: BTreeSet::new(),
        };
        Panel {
            shelf,
            portals,
            hands: Mutex::new(hands),
            ends: Notify::new(),
        }
    }

    /// Waits until somebody has asked for the end.
    pub async fn ended(&self) {
        self.ends.notified().await;
    }

    /// What is so now.
    pub async fn status(&self) -> Status {
        let hands = self.hands.lock().await;
        let port = |port: ControllerId| {
            let portal = &self.portals[port.index()];
            let mut sessions: BTreeMap<String, usize> = BTreeMap::new();
            for session in portal.target.sessions() {
                *sessions.entry(session.initiator.clone()).or_default() += 1;
            }
            let state = PortState {
                address: portal.address,
                target: portal.target.name().to_owned(),
                connected: !hands.cut.contains(&port),
                sessions,
            };
            (port, state)
        };
        Status {
            pid: std::process::id(),
            array: self.shelf.array(),
            powered: hands.powered,
            ports: ControllerId::ALL.into_iter().map(port).collect(),
            disks: self.shelf.disks(),
        }
    }

    /// Pulls or plugs one disk at a port, or the whole cable.
    pub async fn disk_path(&self, port: ControllerId, disk: Option<DiskIndex>, connected: bool) -> Outcome {
        let began = monotonic_ns();
        let mut hands = self.hands.lock().await;
        if let Some(disk) = disk {
            self.known(disk)?;
        }
        let changed = match (disk, connected) {
            (Some(disk), true) => hands.cut_disks.remove(&(port, disk)),
            (Some(disk), false) => hands.cut_disks.insert((port, disk)),
            (None, false) => hands.cut.insert(port),
            (None, true) => {
                let before = hands.cut_disks.len();
                hands.cut_disks.retain(|(at, _)| *at != port);
                hands.cut.remove(&port) | (before != hands.cut_disks.len())
            }
        };
        self.settle(&hands).await?;
        Ok(done(began, changed))
    }

    /// The shelf's power.
    pub async fn power(&self, action: PowerAction) -> Outcome {
        let began = monotonic_ns();
        let mut hands = self.hands.lock().await;
        let steps: &[bool] = match action {
            PowerAction::Off => &[false],
            PowerAction::On => &[true],
            PowerAction::Reset => &[false, true],
        };
        let mut changed = false;
        for on in steps {
            hands.powered = *on;
            let shelf = self.shelf.clone();
            let on = *on;
            let switched = tokio::task::spawn_blocking(move || shelf.set_power(on)).await;
            changed |= switched
                .map_err(|error| failed("shelf", error.to_string()))?
                .map_err(refused)?;
            self.settle(&hands).await?;
        }
        Ok(done(began, changed))
    }

    /// Makes a disk misbehave, through one port or both, or behave again.
    pub fn fault(&self, fault: SetDiskFault) -> Outcome {
        let began = monotonic_ns();
        let SetDiskFault { disk, port, fault } = fault;
        let changed = self.shelf.set_fault(disk, port, fault).map_err(refused)?;
        Ok(done(began, changed))
    }

    /// A disk, or every disk, forgets who is registered and who holds it.
    pub async fn forget_reservations(&self, disk: Option<DiskIndex>) -> Outcome {
        let began = monotonic_ns();
        let forgotten = self.shelf.forget_reservations(disk).await;
        forgotten.map(|()| done(began, true)).map_err(refused)
    }

    /// Every cable plugged, every fault gone, power on.
    pub async fn heal(&self) -> Outcome {
        let mut done = self.power(PowerAction::On).await?;
        for port in ControllerId::ALL {
            done.changed |= self.disk_path(port, None, true).await?.changed;
        }
        let misbehaves = self.shelf.disks().iter().any(|disk| !disk.faults.is_empty());
        self.shelf.heal();
        done.changed |= misbehaves;
        done.done_ns = monotonic_ns();
        Ok(done)
    }

    /// The log so far.
    pub async fn log(&self) -> Outcome<WriteLog> {
        let path = self.shelf.log_path().to_owned();
        let read = tokio::task::spawn_blocking(move || WriteLog::read(&path)).await;
        read.map_err(|error| failed("log", error.to_string()))?
            .map_err(|error| failed("log", error.to_string()))
    }

    fn known(&self, disk: DiskIndex) -> Outcome<()> {
        let disks = self.shelf.disks();
        match disks.iter().any(|each| each.index == disk) {
            true => Ok(()),
            false => Err(RpcError::new(Code::NotFound, disk.to_string(), "no such disk")
                .remedy(format!("0 to {}", disks.len().saturating_sub(1)))),
        }
    }

    /// Brings paths and portals to what the hands have done. What is pulled takes no effect before its portal is gone.
    async fn settle(&self, hands: &Hands) -> Outcome<()> {
        for port in ControllerId::ALL {
            let connected = !hands.cut.contains(&port);
            for disk in self.shelf.disks() {
                let reached = connected && !hands.cut_disks.contains(&(port, disk.index));
                self.shelf
                    .set_path(port, Some(disk.index), reached)
                    .map_err(refused)?;
            }
            let portal = &self.portals[port.index()];
            if connected && hands.powered {
                let plugged = portal.plug(None).await;
                plugged.map_err(|error| failed(format!("port {port}"), error.to_string()))?;
            } else {
                portal.pull().await;
            }
        }
        Ok(())
    }
}

fn done(began_ns: u64, changed: bool) -> Done {
    Done {
        began_ns,
        done_ns: monotonic_ns(),
        changed,
    }
}

fn failed(place: impl Into<String>, why: String) -> RpcError {
    RpcError::new(Code::Failed, place, why)
}

fn refused(error: ShelfError) -> RpcError {
    let code = match error {
        ShelfError::NoDisk { .. } => Code::NotFound,
        _ => Code::Failed,
    };
    RpcError::new(code, "shelf", error.to_string())
}

/// Reads the parameters, or answers what is wrong with them.
macro_rules! read {
    ($method:expr, $given:expr) => {
        match params($method, $given) {
            Ok(params) => params,
            Err(error) => return Reply::Answer(Err(error)),
        }
    };
}

impl Handler for Panel {
    async fn call(&self, method: &str, given: Value) -> Reply {
        answer(match method {
            STATUS => return answer(Ok(self.status().await)),
            LOG => {
                let LogQuery { after, most } = read!(method, given);
                let lines = |log: WriteLog| -> Vec<Line> {
                    let later = log.records.iter().filter(|record| record.sequence > after);
                    later.take(most.min(MOST)).map(Line::from).collect()
                };
                return answer(self.log().await.map(lines));
            }
            JUDGE => {
                let Judge { disks } = read!(method, given);
                let judged = |log: WriteLog| -> Verdict { audit::judge(&log, &disks) };
                return answer(self.log().await.map(judged));
            }
            DISK_PATH => {
                let SetDiskPath {
                    controller,
                    disk,
                    connected,
                } = read!(method, given);
                self.disk_path(controller, disk, connected).await
            }
            DISK_FAULT => self.fault(read!(method, given)),
            SHELF_POWER => {
                let SetShelfPower { action } = read!(method, given);
                self.power(action).await
            }
            FORGET => {
                let Forget { disk } = read!(method, given);
                self.forget_reservations(disk).await
            }
            HEAL => self.heal().await,
            SHUTDOWN => Ok(done(monotonic_ns(), true)),
            _ => Err(unknown(method, &METHODS)),
        })
    }

    fn answered(&self, method: &str) {
        if method == SHUTDOWN {
            self.ends.notify_one();
        }
    }
}
