//! The message bus beside others that carry requests and answers between processes of one machine.
//!
//! | bus | what it is here |
//! |---|---|
//! | forwarder | the floor: frames with a length, read, walked over, written ([`crate::peer::frames`]) |
//! | pollux | `rpc-routerd`, two registered services |
//! | pollux, stranger | the same, the caller has not registered: what it says is validated at the door |
//! | dbus-broker, dbus-daemon | one method call to a unique name |
//! | nats-server | one request with a subject for the answer, on loopback |
//! | two forwarders, two routers | from one controller to the other |
//!
//! Every bus runs all the time; in each round each one is measured once per size, in an order that rotates. A bus that
//! is not on this machine is left out, and the report says so.

use crate::company::{self, Beside};
use crate::error::{Context, Error, Result};
use crate::load::{Callee, Caller, payload};
use crate::peer::pollux::Side;
use crate::peer::{dbus, frames, nats, pollux};
use crate::process::{Process, children};
use crate::stage::{Stage, free_port};
use crate::statistics::Sample;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

/// Sizes of the payload, bytes.
pub const SIZES: [usize; 2] = [200, 4096];
/// Name of the floor of one hop.
pub const FLOOR: &str = "forwarder";
/// Name of the floor of two hops.
pub const FLOOR_OF_TWO: &str = "two forwarders";
/// Name of the router.
pub const ROUTER: &str = "pollux";
/// Name of both routers.
pub const ROUTERS: &str = "two routers";
/// Debian packages of the peers.
pub const PACKAGES: [&str; 3] = ["dbus-broker", "dbus-daemon", "nats-server"];

const BUS_CONFIG: &str = r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>session</type>
  <listen>unix:path=SOCKET</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <allow own="*"/>
    <allow send_destination="*"/>
    <allow receive_sender="*"/>
  </policy>
</busconfig>
"#;

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Rounds.
    pub rounds: usize,
    /// Time of one bus and one size in one round.
    pub time: Duration,
}

/// What was measured of one bus.
#[derive(Clone, Debug)]
pub struct Measured {
    /// Its name.
    pub bus: &'static str,
    /// Samples of each round, by the place of the size in [`SIZES`].
    pub samples: [Vec<Sample>; 2],
}

/// What was measured, and what could not be.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Every bus that could be measured.
    pub measured: Vec<Measured>,
    /// Every bus that could not, and why.
    pub missing: Vec<(&'static str, String)>,
    /// The router in rough company, if it was measured.
    pub beside: Beside,
}

/// A bus that runs, with a caller and a callee on it.
struct Bus {
    name: &'static str,
    caller: Caller,
    /// Processes whose time counts.
    counted: Vec<u32>,
    _callee: Callee,
}

impl Stage {
    fn forwarder(&mut self) -> Result<Bus> {
        let socket = self.path("forwarder.sock");
        let mut command = Command::new(&self.this);
        command.arg("forward").arg(&socket);
        // The callee is the first to connect: number 0.
        let (id, callee) = self.start(&mut command, "forwarder.log", "listens", || {
            frames::connect(&socket, 0).ok()
        })?;
        let caller = frames::connect(&socket, 0)?;
        bus(FLOOR, caller, callee, vec![id])
    }

    fn two_forwarders(&mut self) -> Result<Bus> {
        let address = free_port()?;
        let (one, other) = (self.path("one.sock"), self.path("other.sock"));
        let [first_keys, second_keys] = self.keys()?;
        let mut command = Command::new(&self.this);
        command
            .arg("forward")
            .arg(&one)
            .args(["--listen", &address.to_string()])
            .arg("--keys")
            .arg(first_keys);
        let mut first = Process::start(&mut command, &self.path("one.log"))?;
        let first_id = first.id();
        let mut command = Command::new(&self.this);
        command
            .arg("forward")
            .arg(&other)
            .args(["--dial", &address.to_string()])
            .arg("--keys")
            .arg(second_keys);
        let (second_id, callee) = self.start(&mut command, "other.log", "listens", || {
            frames::connect(&other, 0).ok()
        })?;
        // That the second one listens says nothing of the first.
        let caller = first.until("listens", || frames::connect(&one, 0).ok());
        self.processes.push(first);
        let caller = caller?;
        bus(FLOOR_OF_TWO, caller, callee, vec![first_id, second_id])
    }

    fn pollux(&self, name: &'static str, ids: &[u32; 2]) -> Result<Bus> {
        let socket = |controller: &str| self.path(controller).join("run/router.sock");
        // Each bus has services of its own.
        let (callee_at, service, caller, counted) = match name {
            ROUTERS => ("b", "far", Side::Caller("far-caller"), ids.to_vec()),
            ROUTER => ("a", "near", Side::Caller("near-caller"), vec![ids[0]]),
            _ => ("a", "open", Side::Stranger, vec![ids[0]]),
        };
        let method = if callee_at == "a" {
            format!("{service}.back")
        } else {
            format!("partner/{service}.back")
        };
        let callee = pollux::connect(&socket(callee_at), Side::Callee(service), "")?;
        let caller = pollux::connect(&socket("a"), caller, &method)?;
        bus(name, caller, callee, counted)
    }

    fn dbus_daemon(&mut self) -> Result<Bus> {
        let (name, socket) = ("dbus-daemon", self.path("daemon.sock"));
        let config = self.bus_config(name, &socket)?;
        let mut command = Command::new(name);
        command
            .arg("--nofork")
            .arg("--nopidfile")
            .arg("--config-file")
            .arg(&config);
        let (id, callee) = self.start(&mut command, "dbus-daemon.log", "listens", || {
            dbus::connect(name, &socket, None).ok()
        })?;
        let (callee, callee_name) = callee;
        let (caller, _) = dbus::connect(name, &socket, Some(&callee_name))?;
        bus(name, caller, callee, vec![id])
    }

    /// Its launcher wants a session bus for itself, which the daemon has to be.
    fn dbus_broker(&mut self) -> Result<Bus> {
        let (name, socket) = ("dbus-broker", self.path("broker.sock"));
        let session = self.path("daemon.sock");
        let config = self.bus_config(name, &socket)?;
        let mut command = Command::new(&self.this);
        command.arg("broker").arg(&socket).arg(&config);
        command.env(
            "DBUS_SESSION_BUS_ADDRESS",
            format!("unix:path={}", session.display()),
        );
        let (id, callee) = self.start(&mut command, "dbus-broker.log", "listens", || {
            dbus::connect(name, &socket, None).ok()
        })?;
        let (callee, callee_name) = callee;
        let (caller, _) = dbus::connect(name, &socket, Some(&callee_name))?;
        bus(name, caller, callee, children(id))
    }

    fn bus_config(&self, name: &str, socket: &Path) -> Result<PathBuf> {
        let path = self.path(&format!("{name}.conf"));
        let text = BUS_CONFIG.replace("SOCKET", &socket.display().to_string());
        fs::write(&path, text).context(path.display())?;
        Ok(path)
    }

    fn nats(&mut self) -> Result<Bus> {
        let (name, address) = ("nats-server", free_port()?);
        let mut command = Command::new(name);
        command.args(["-a", "127.0.0.1", "-p", &address.port().to_string()]);
        let (id, callee) = self.start(&mut command, "nats.log", "listens", || {
            nats::connect(address, "echo").ok()
        })?;
        let caller = nats::connect(address, "inbox.*")?;
        bus(name, caller, callee, vec![id])
    }
}

/// Both routers; their numbers.
fn routers_of(stage: &mut Stage) -> Result<[u32; 2]> {
    let configs = stage.controllers(None)?;
    stage.routers(Some("warn"), &configs)
}

fn bus(
    name: &'static str,
    caller: crate::load::Line,
    callee: crate::load::Line,
    counted: Vec<u32>,
) -> Result<Bus> {
    Ok(Bus {
        name,
        caller: Caller::new(caller)?,
        counted,
        _callee: Callee::start(callee)?,
    })
}

/// The name of every bus, in the order of the report; a bus that needs another one comes after it.
pub const BUSES: [&str; 8] = [
    FLOOR,
    ROUTER,
    "pollux, stranger",
    "dbus-daemon",
    "dbus-broker",
    "nats-server",
    FLOOR_OF_TWO,
    ROUTERS,
];

/// Starts what can be started of `wanted`, and measures it. `progress` hears of each round.
///
/// # Errors
/// A bus that runs gave a wrong answer, or none.
pub fn measure(plan: Plan, wanted: &[&'static str], progress: impl Fn(usize)) -> Result<Outcome> {
    let mut stage = Stage::new()?;
    let mut outcome = Outcome::default();
    let mut buses = start(&mut stage, wanted, &mut outcome);
    let payloads = SIZES.map(payload);
    for bus in &buses {
        outcome.measured.push(Measured {
            bus: bus.name,
            samples: [Vec::new(), Vec::new()],
        });
    }
    for round in 0..plan.rounds {
        progress(round);
        for step in 0..buses.len() {
            let place = (round + step) % buses.len();
            let (bus, measured) = (&mut buses[place], &mut outcome.measured[place]);
            for (payload, samples) in payloads.iter().zip(&mut measured.samples) {
                // What was asleep wakes up first.
                bus.caller
                    .one_at_a_time(payload.as_bytes(), Duration::from_millis(10))?;
                samples.push(bus.caller.round(payload.as_bytes(), plan.time, &bus.counted)?);
            }
        }
    }
    if let Some(bus) = buses.iter_mut().find(|bus| bus.name == ROUTER) {
        let socket = stage.path("a").join("run/router.sock");
        let payload = payloads[0].as_bytes();
        outcome.beside = company::measure(&socket, &mut bus.caller, payload, plan.rounds, plan.time / 2)?;
    }
    Ok(outcome)
}

fn start(stage: &mut Stage, wanted: &[&'static str], outcome: &mut Outcome) -> Vec<Bus> {
    let mut buses = Vec::new();
    let mut routers: Option<Result<[u32; 2]>> = None;
    for &name in wanted {
        let started = match name {
            FLOOR => stage.forwarder(),
            FLOOR_OF_TWO => stage.two_forwarders(),
            "dbus-broker" => stage.dbus_broker(),
            "dbus-daemon" => stage.dbus_daemon(),
            "nats-server" => stage.nats(),
            _ => match routers.get_or_insert_with(|| routers_of(stage)) {
                Ok(ids) => {
                    let ids = *ids;
                    stage.pollux(name, &ids)
                }
                Err(error) => Err(Error::Missing(error.to_string())),
            },
        };
        match started {
            Ok(bus) => buses.push(bus),
            Err(error) => outcome.missing.push((name, error.to_string())),
        }
    }
    buses
}
