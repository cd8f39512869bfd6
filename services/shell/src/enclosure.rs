//! `pollux chassis`: buttons, cables and faults of the enclosure in software.

use crate::cli::{AllOr, Button, Cable, Chassis, Deed, Fault, Plug, Switch};
use crate::error::Error;
use crate::print::{Style, size, span, table};
use crate::resources::Shown;
use pollux_api::chassis::{self, Done, Event, PowerState, Status};
use pollux_api::error::RpcError;
use pollux_api::id::ControllerId;
use pollux_runtime::{Client, Ctx};
use serde::Serialize;
use serde_json::{Value, json};
use std::fmt::Write;
use std::path::Path;
use std::time::Duration;

/// A power cut waits for every process to be reaped, a reboot for every daemon to end.
const BUTTON: Duration = Duration::from_secs(60);

/// Presses a button of the enclosure of the array in `dir`.
///
/// # Errors
/// No enclosure runs there, or it refuses.
pub async fn run(dir: &Path, command: Chassis, style: Style) -> Result<Shown, Error> {
    let socket = dir.join(chassis::SOCKET);
    let client = Client::connect(&socket).await.map_err(|error| {
        Error::failed(
            format!("no enclosure answers at {}: {error}", socket.display()),
            format!("pollux-chassis run --dir {}", dir.display()),
        )
    })?;
    let panel = Panel { client };
    match command {
        Chassis::Status => {
            let status: Status = panel.look(chassis::STATUS, &()).await?;
            Ok(Shown::new(render(&status, style), &status))
        }
        Chassis::Events { after } => {
            let events: Vec<Event> = panel
                .look(chassis::EVENTS, &chassis::EventQuery { after })
                .await?;
            let first = events.first().map_or(0, |event| event.at_ns);
            let mut text = String::new();
            for event in &events {
                let who = event
                    .controller
                    .map_or_else(|| "-".to_owned(), |id| id.to_string());
                let object = event.object.as_deref().unwrap_or("");
                let at = span(event.at_ns.saturating_sub(first) / 1000);
                let _ = writeln!(
                    text,
                    "{:>6} +{at:<9} {who} {} {object} {}",
                    event.seq, event.kind, event.detail
                );
            }
            Ok(Shown::new(text, &events))
        }
        other => press(&panel, other).await,
    }
}

struct Panel {
    client: Client,
}

impl Panel {
    async fn look<P: Serialize, R: serde::de::DeserializeOwned>(
        &self,
        method: &str,
        params: &P,
    ) -> Result<R, RpcError> {
        self.client.call(method, params, &Ctx::new(BUTTON)).await
    }
}

async fn press(panel: &Panel, command: Chassis) -> Result<Shown, Error> {
    let cable_of = |cable| match cable {
        Cable::Whole => chassis::Cable::Whole,
        Cable::Cut => chassis::Cable::Cut,
        Cable::OnlyAToB => chassis::Cable::OnlyAToB,
        Cable::OnlyBToA => chassis::Cable::OnlyBToA,
    };
    let button_of = |button| match button {
        Button::On => chassis::PowerAction::On,
        Button::Off => chassis::PowerAction::Off,
        Button::Reset => chassis::PowerAction::Reset,
    };
    let presses: Vec<(&str, Value)> = match command {
        Chassis::Status | Chassis::Events { .. } => Vec::new(),
        Chassis::Power { controller, button } => {
            vec![(
                chassis::POWER,
                value(&chassis::SetPower {
                    controller,
                    action: button_of(button),
                }),
            )]
        }
        Chassis::Hang { controller } => vec![(
            chassis::HANG,
            value(&chassis::SetHung {
                controller,
                hung: true,
            }),
        )],
        Chassis::Resume { controller } => vec![(
            chassis::HANG,
            value(&chassis::SetHung {
                controller,
                hung: false,
            }),
        )],
        Chassis::Reboot { controller } => {
            vec![(
                chassis::REBOOT,
                value(&chassis::Reboot {
                    controller,
                    grace_ms: 10_000,
                }),
            )]
        }
        Chassis::Daemon {
            controller,
            daemon,
            deed,
        } => {
            let action = match deed {
                Deed::Kill => chassis::DaemonAction::Kill,
                Deed::Restart => chassis::DaemonAction::Restart,
                Deed::Stop => chassis::DaemonAction::Stop,
                Deed::Continue => chassis::DaemonAction::Continue,
            };
            vec![(
                chassis::DAEMON,
                value(&chassis::SignalDaemon {
                    controller,
                    daemon,
                    action,
                }),
            )]
        }
        Chassis::Leg { leg, cable } => vec![(
            chassis::LEG,
            value(&chassis::SetLeg {
                leg,
                cable: cable_of(cable),
            }),
        )],
        Chassis::Interconnect { cable } => [0, 1]
            .map(|leg| {
                (
                    chassis::LEG,
                    value(&chassis::SetLeg {
                        leg,
                        cable: cable_of(cable),
                    }),
                )
            })
            .to_vec(),
        Chassis::HostPort { controller, plug } => {
            let connected = plug == Plug::In;
            vec![(
                chassis::HOST_PORT,
                value(&chassis::SetHostPort {
                    controller,
                    connected,
                }),
            )]
        }
        Chassis::DiskPath {
            controller,
            disk: AllOr(disk),
            plug,
        } => {
            let connected = plug == Plug::In;
            vec![(
                chassis::DISK_PATH,
                value(&chassis::SetDiskPath {
                    controller,
                    disk,
                    connected,
                }),
            )]
        }
        Chassis::DiskFault {
            disk,
            fault,
            port,
            slow_ms,
        } => {
            let fault = match fault {
                Fault::None => chassis::DiskFault::None,
                Fault::Slow => chassis::DiskFault::Slow {
                    min_ms: slow_ms,
                    max_ms: slow_ms,
                },
                Fault::Failing => chassis::DiskFault::Failing {
                    reads: true,
                    writes: true,
                },
                Fault::FailingReads => chassis::DiskFault::Failing {
                    reads: true,
                    writes: false,
                },
                Fault::FailingWrites => chassis::DiskFault::Failing {
                    reads: false,
                    writes: true,
                },
                Fault::ReadOnly => chassis::DiskFault::ReadOnly,
                Fault::Stuck => chassis::DiskFault::Stuck,
                Fault::TornWrite => chassis::DiskFault::TornWrite,
                Fault::MisdirectedWrite => chassis::DiskFault::MisdirectedWrite,
                Fault::LostWrite => chassis::DiskFault::LostWrite,
            };
            vec![(
                chassis::DISK_FAULT,
                value(&chassis::SetDiskFault { disk, port, fault }),
            )]
        }
        Chassis::ShelfPower { button } => {
            vec![(
                chassis::SHELF_POWER,
                value(&chassis::SetShelfPower {
                    action: button_of(button),
                }),
            )]
        }
        Chassis::Bmc { controller, switch } => {
            let reachable = switch == Switch::On;
            vec![(
                chassis::BMC,
                value(&chassis::SetBmc {
                    controller,
                    reachable,
                }),
            )]
        }
        Chassis::Watchdog { controller, switch } => {
            let enabled = switch == Switch::On;
            vec![(
                chassis::WATCHDOG,
                value(&chassis::SetWatchdog { controller, enabled }),
            )]
        }
        Chassis::Heal => vec![(chassis::HEAL, Value::Null)],
        Chassis::Note { text } => vec![(chassis::NOTE, value(&chassis::Note { text }))],
        Chassis::Shutdown => vec![(chassis::SHUTDOWN, Value::Null)],
    };
    let (mut text, mut all) = (String::new(), Vec::new());
    for (method, params) in presses {
        let Done {
            began_ns,
            done_ns,
            changed,
        } = panel.look(method, &params).await?;
        let took = span(done_ns.saturating_sub(began_ns) / 1000);
        let _ = writeln!(
            text,
            "{}",
            if changed {
                format!("done in {took}")
            } else {
                "it was so already".to_owned()
            }
        );
        all.push(json!({ "method": method, "began_ns": began_ns, "done_ns": done_ns, "changed": changed }));
    }
    Ok(Shown {
        text,
        json: Value::Array(all),
    })
}

/// Parameters as JSON, which every payload of the contract has.
fn value(params: &impl Serialize) -> Value {
    serde_json::to_value(params).unwrap_or(Value::Null)
}

fn render(status: &Status, style: Style) -> String {
    let mut text = format!("array {}, enclosure is process {}\n", status.array, status.pid);
    for (id, controller) in &status.controllers {
        let power = match controller.power {
            PowerState::On => "power on".to_owned(),
            PowerState::Changing => style.warn("power changing"),
            PowerState::Off => style.bad("power OFF"),
        };
        let _ = write!(
            text,
            "\n{}  {power}, {} boots",
            style.bold(&format!("controller {id}")),
            controller.boots
        );
        for (wrong, words) in [
            (controller.hung, "HUNG"),
            (!controller.host_port, "host port unplugged"),
            (!controller.bmc_reachable, "BMC of the partner out of reach"),
            (!controller.watchdog.enabled, "watchdog does not act"),
        ] {
            if wrong {
                let _ = write!(text, ", {}", style.bad(words));
            }
        }
        text.push('\n');
        let rows: Vec<Vec<String>> = controller
            .daemons
            .iter()
            .map(|(name, daemon)| {
                let state = match (daemon.pid, daemon.ready, daemon.stopped, daemon.throttled) {
                    (None, _, _, true) => "waits: crashed too often",
                    (None, ..) => "does not run",
                    (Some(_), _, true, _) => "stopped",
                    (Some(_), true, ..) => "ready",
                    (Some(_), false, ..) => "starting",
                };
                let pid = daemon.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
                let exit = daemon.last_exit.clone().unwrap_or_default();
                vec![
                    name.clone(),
                    pid,
                    state.to_owned(),
                    daemon.crashes.to_string(),
                    exit,
                ]
            })
            .collect();
        text.push_str(&table(&["DAEMON", "PID", "STATE", "CRASHES", "LAST EXIT"], &rows));
    }
    let _ = writeln!(text, "\n{}", style.bold("interconnect"));
    for (i, leg) in status.legs.iter().enumerate() {
        let active = if usize::from(status.active_leg) == i {
            ", carries the traffic"
        } else {
            ""
        };
        let carrier = if leg.carrier { "carrier" } else { "NO CARRIER" };
        let _ = writeln!(text, "  leg {i}: {:?}, {carrier}{active}", leg.cable);
    }
    let shelf = if status.shelf_powered {
        "power on".to_owned()
    } else {
        style.bad("power OFF")
    };
    let _ = writeln!(text, "\n{}  {shelf}", style.bold("shelf"));
    let rows: Vec<Vec<String>> = status
        .disks
        .iter()
        .map(|disk| {
            let paths: Vec<&str> = disk.paths.iter().map(|id: &ControllerId| id.as_str()).collect();
            let kind = if disk.quorum { "quorum" } else { "data" };
            vec![
                disk.index.to_string(),
                kind.to_owned(),
                size(disk.bytes),
                if paths.is_empty() {
                    "none".to_owned()
                } else {
                    paths.join(" ")
                },
                if disk.faults.is_empty() {
                    "none".to_owned()
                } else {
                    disk.faults.join(", ")
                },
            ]
        })
        .collect();
    text.push_str(&table(&["DISK", "KIND", "SIZE", "PATHS", "FAULTS"], &rows));
    text
}
